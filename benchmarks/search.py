"""What does `clipbert search` cost, compared with the cross-encoder over every video, and how fast is an index made?

    python -m benchmarks.search PROJECT [--split test] [--queries 200] [--rerank 20 30 50] [--json OUT]

Every media of the project's manifest is indexed by its retrieval model. The queries are captions of `--split`, one of
each video; a query is right if its own video is among the first ten hits. "All" scores each query with the
cross-encoder for every video, whose visual tokens are in memory, as evaluation does; each depth searches the index with
the same query, reading the tokens from the disk. Both sides alternate query by query in one process, so that other
programs on the machine slow down both. `--exhaustive N` limits "all" to N queries, whose R@10 is compared with that of
the same queries in the index. Then the first 200 videos are encoded as evaluation does, from the frame cache to visual
tokens, and indexed, twice in turn: the ratio of the two rates is that of indexing to evaluation.
"""

import argparse
import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from clipbert import pipeline
from clipbert.data.manifest import read_texts
from clipbert.frame_cache import FrameCache
from clipbert.search import SearchIndex, build_index
from clipbert.search.sources import VideoSource, from_manifest
from clipbert.tasks.scoring import CachedFrames, encode_clips, rank_gallery

TOP = 10
RATE_VIDEOS = 200


def queries_of(project: Path, split: str, count: int) -> list[tuple[str, str]]:
    """Return (caption, media), one caption of each video of a split."""
    texts = read_texts(project / "artifacts" / "manifest")
    chosen = texts[(texts["kind"] == "caption") & (texts["split"] == split)].drop_duplicates("media")
    chosen = chosen.sample(min(count, len(chosen)), random_state=0)
    return list(zip(chosen["text"].tolist(), chosen["media"].tolist(), strict=True))


@torch.inference_mode()
def exhaustive(model: Any, embeds: torch.Tensor, vectors: torch.Tensor, text: str) -> list[int]:
    """Return the positions of the best videos of a gallery by the cross-encoder over all of them."""
    found = rank_gallery(model.model, embeds, vectors, *model.tokenize([text]), model.batch_size)
    return found.scores.argsort(descending=True, stable=True)[:TOP].tolist()


def compare(model: Any, index: SearchIndex, media: list[str], embeds: torch.Tensor, options: Any) -> dict[str, Any]:
    """Return the CPU seconds of a query and R@10 of both ways."""
    queries = queries_of(options.project, options.split, options.queries)
    with torch.inference_mode():
        vectors = torch.cat([model.model.get_video_features(embeds[i : i + 64]) for i in range(0, len(embeds), 64)])
    ways = ["all", *options.rerank]
    hits: dict[Any, list[bool]] = {way: [] for way in ways}
    cpu: dict[Any, list[float]] = {way: [] for way in ways}
    wall: dict[Any, list[float]] = {way: [] for way in ways}
    for number, (text, own) in enumerate(queries):
        for way in ways:
            if way == "all" and number >= options.exhaustive:
                continue
            started, used = time.monotonic(), time.process_time()
            if way == "all":
                best = [media[place] for place in exhaustive(model, embeds, vectors, text)]
            else:
                best = [hit.video_id for hit in index.search(model, text, k=TOP, rerank=way)]
            cpu[way].append(time.process_time() - used)
            wall[way].append(time.monotonic() - started)
            hits[way].append(own in best)
    compared = len(hits["all"])
    rows = [
        {
            "reranked": way,
            "queries": len(hits[way]),
            "r10": round(100 * float(np.mean(hits[way])), 2),
            "r10_of_compared": round(100 * float(np.mean(hits[way][:compared])), 2),
            "cpu_ms": round(1000 * float(np.mean(cpu[way])), 2),
            "p50_ms": round(1000 * float(np.median(wall[way])), 2),
            "cheaper": round(float(np.mean(cpu["all"]) / np.mean(cpu[way])), 1),
        }
        for way in ways
    ]
    return {"gallery": len(media), "rows": rows}


def rates(model: Any, sources: list[VideoSource], cache: FrameCache) -> dict[str, float]:
    """Return videos per CPU second of evaluation's vision half and of indexing, both from the frame cache."""
    some = [source for source in sources if source.video_id in cache][:RATE_VIDEOS]
    seconds = {"vision": 0.0, "index": 0.0}
    for _ in range(2):
        used = time.process_time()
        frames = [CachedFrames(cache, source.video_id) for source in some]
        encode_clips(model.model, model.processor, frames, model.processor.clips)
        seconds["vision"] += time.process_time() - used
        with tempfile.TemporaryDirectory() as folder:
            used = time.process_time()
            build_index(Path(folder) / "search", model, some, frame_cache=cache, title=None)
            seconds["index"] += time.process_time() - used
    rate = {name: round(2 * len(some) / value, 1) for name, value in seconds.items()}
    return {**rate, "ratio": round(seconds["vision"] / seconds["index"], 3)}


def show(found: dict[str, Any]) -> None:
    """Print the table of one project."""
    table = Table(*found["rows"][0])
    for row in found["rows"]:
        table.add_row(*(str(value) for value in row.values()))
    Console().print(table)
    rate = found["rates"]
    print(f"{found['gallery']} videos in the gallery, {found['bytes'] / 1e6:.1f} MB of index")
    print(f"videos per CPU second: evaluation {rate['vision']}, index {rate['index']}, ratio {rate['ratio']}")


def main() -> None:
    """Index the project's videos, compare, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("project", type=Path, help="a project with a trained retrieval model")
    parser.add_argument("--split", default="test")
    parser.add_argument("--queries", type=int, default=200)
    parser.add_argument("--exhaustive", type=int, default=200, help="queries that the cross-encoder scores with all")
    parser.add_argument("--rerank", type=int, nargs="+", default=[20, 30, 50])
    parser.add_argument("--videos-only", action="store_true", help="leave out images")
    parser.add_argument("--json", type=Path, help="write the figures there, too")
    options = parser.parse_args()
    model = pipeline("retrieval", options.project / "artifacts" / "models" / "retrieval")
    cache = FrameCache(options.project / "artifacts" / "frames")
    sources = from_manifest(options.project / "artifacts" / "manifest", options.project / "data")
    sources = [each for each in sources if not options.videos_only or each.metadata["kind"] == "video"]
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "search"
        build_index(place, model, sources, frame_cache=cache)
        index = SearchIndex.open(place)
        media = [source.video_id for source in sources]
        frames = [CachedFrames(cache, name) for name in media]
        embeds = torch.stack(encode_clips(model.model, model.processor, frames, model.processor.clips))
        found = compare(model, index, media, embeds, options) | {"bytes": index.info().bytes}
    found |= {"rates": rates(model, sources, cache), "threads": torch.get_num_threads(), "load": os.getloadavg()[0]}
    show(found)
    if options.json is not None:
        options.json.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
