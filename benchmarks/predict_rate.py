"""Rows per second of `clipbert predict` compared with the evaluation of the same questions from the frame cache.

    python -m benchmarks.predict_rate --project . [--rounds 3]

The questions are those of the validation and the test split about videos. Both run in turn in one process with one
thread of torch: the evaluation reads frames from `artifacts/frames`, the prediction decodes the files with its decoder
processes, whose processor time counts too.
"""

import argparse
import json
import os
import resource
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import torch
from rich.console import Console
from rich.table import Table

from clipbert import pipeline
from clipbert.frame_cache import FrameCache
from clipbert.prediction.run import predict_table
from clipbert.sampling.decoder_pool import stop_decoders
from clipbert.sampling.video_input import forget_decoded
from clipbert.tasks.scoring import CachedFrames, ProcessorTokens, answer_probabilities, encode_clips

TASK = "open_qa"


def cpu_s() -> float:
    """Return the processor time of this process and its finished children."""
    own, children = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime


@torch.inference_mode()
def evaluate(project: Path, folder: Path, rows: pd.DataFrame) -> None:
    """Answer the rows from the frame cache, as the evaluation stage does."""
    loaded = pipeline(TASK, folder)
    cache = FrameCache(project / "artifacts" / "frames")
    tokenize = ProcessorTokens(loaded.processor, loaded.model.device)
    media = list(dict.fromkeys(rows["media"]))
    embeds = dict(
        zip(
            media,
            encode_clips(
                loaded.model, loaded.processor, [CachedFrames(cache, each) for each in media], loaded.processor.clips
            ),
            strict=True,
        )
    )
    for start in range(0, len(rows), loaded.batch_size):
        some = rows.iloc[start : start + loaded.batch_size]
        seen = torch.stack([embeds[each] for each in some["media"]])
        answer_probabilities(loaded.model, seen, *tokenize(list(some["text"])))


def predict(project: Path, folder: Path, table: Path) -> None:
    """Answer the rows of a table with `clipbert predict`, with nothing kept from an earlier round."""
    forget_decoded()
    predict_table(folder, TASK, table, table.with_suffix(".out.jsonl"), project / "data")
    stop_decoders()


def main() -> None:
    """Print the rates and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--project", type=Path, default=Path())
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    project = options.project
    folder = project / "artifacts" / "models" / TASK
    texts = pd.read_parquet(project / "artifacts" / "manifest" / "texts.parquet")
    rows = texts[(texts["kind"] == TASK) & (texts["media_kind"] == "video") & texts["split"].isin(["val", "test"])]
    with tempfile.TemporaryDirectory() as scratch:
        table = Path(scratch) / "rows.jsonl"
        table.write_text(
            "".join(json.dumps({"video": r.media, "question": r.text}) + "\n" for r in rows.itertuples()),
            encoding="utf-8",
        )
        ways: dict[str, Callable[[], None]] = {
            "evaluation, cached frames": lambda: evaluate(project, folder, rows),
            "prediction, files": lambda: predict(project, folder, table),
        }
        wall: dict[str, list[float]] = {name: [] for name in ways}
        used: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(options.rounds):
            for name, run in ways.items():
                start, before = time.perf_counter(), cpu_s()
                run()
                wall[name].append(len(rows) / (time.perf_counter() - start))
                used[name].append(len(rows) / (cpu_s() - before))
    shown = Table("way", "rows/s, median (range)", "rows per CPU s")
    for name in ways:
        middle, low, high = statistics.median(wall[name]), min(wall[name]), max(wall[name])
        shown.add_row(name, f"{middle:.1f} ({low:.1f} to {high:.1f})", f"{statistics.median(used[name]):.1f}")
    console = Console(width=100)
    console.print(shown)
    ratios = [b / a for a, b in zip(*wall.values(), strict=True)]
    console.print(
        f"prediction / evaluation: {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f}) over "
        f"{len(rows)} rows, {os.cpu_count()} cores"
    )


if __name__ == "__main__":
    main()
