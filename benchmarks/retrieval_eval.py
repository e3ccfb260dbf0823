"""How much faster is the evaluation of retrieval than the authors' procedure, and are the ranks the same?

    python -m benchmarks.retrieval_eval --videos 2    # 2 videos x 256 texts x 4 clips: a quarter of an hour on one core
    python -m benchmarks.retrieval_eval               # 64 videos: many hours

Both score the same model of the preset `base` with the same videos and texts. The authors' procedure
(`inference_retrieval` of their run_video_retrieval.py) goes video by video: for every 64 texts the CNN encodes the
video's frames again, each clip is a pass of its own, and texts are padded to the maximum length. Ours is
`clipbert.tasks.gallery_scores`. Rounds alternate between the ways; times are processor seconds of all threads, so that
other programs on the machine count less, and a ratio is that of the rounds' totals, with the range over the rounds. A
round takes the next texts, so all rounds together are one evaluation of all texts. All ways cost the same per video, so
ratios at fewer videos and all texts are those at 64.

The weights are random, with the two-stage part's dual encoder; random words make texts as long as the captions of
MSRVTT (`LENGTHS`). The two-stage time at 1,000 videos is computed from measured parts: vision per video, dual-encoder
text vectors, and pairs of the cross-encoder (`two_stages`).
"""

import argparse
import json
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from clipbert.evaluation.metrics.ranking import mean_rank_of
from clipbert.evaluation.rerank_depth import VALIDATION_TEXTS, VALIDATION_VIDEOS
from clipbert.model import ClipBertConfig, ClipBertForRetrieval
from clipbert.tasks.batch import Encoded
from clipbert.tasks.gallery_scores import GalleryScores

TEXTS_AT_ONCE = 64  # the authors' eval_retrieval_batch_size
# Tokens of captions with [CLS] and [SEP]: mean and standard deviation, and limits. MSRVTT's captions have 9.4 words in
# the mean (Xu et al., CVPR 2016).
LENGTHS = (12.0, 4.5, 5, 32)
FRAMES = 2  # per clip, as the paper evaluates MSRVTT
WANTED_EXACT, WANTED_TWO_STAGES = 1.9, 10.0


class Project:
    """A model of the preset `base`, videos and texts."""

    def __init__(self, options: argparse.Namespace) -> None:
        torch.manual_seed(0)
        generator = np.random.default_rng(0)
        overrides = {"hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 512}
        small = {**overrides, "image_size": 96} if options.tiny else {}
        self.config = ClipBertConfig(projection_size=256, **small)
        self.model = ClipBertForRetrieval(self.config).eval()
        with torch.no_grad():  # random scores differ in the third digit, which would test nothing but rounding
            self.model.classifier[-1].weight.mul_(options.spread)
        size = self.config.image_size
        colors = generator.integers(0, 256, (options.videos, options.clips, FRAMES, 3, 8, 8), dtype=np.uint8)
        # 8 x 8 squares of random colors: videos of noise would all look the same to the model
        self.pixels = torch.from_numpy(colors.repeat(size // 8, axis=-2).repeat(size // 8, axis=-1))
        mean, deviation, low, high = LENGTHS
        counts = generator.normal(mean, deviation, options.texts).round().clip(low, high).astype(int)
        self.ids = [generator.integers(1000, self.config.vocab_size, count).tolist() for count in counts]
        self.max_length = self.config.max_text_length
        self.clips, self.videos = options.clips, options.videos
        self.precision = "fp32"

    def autocast(self) -> Any:
        """Return the context of the precision."""
        return torch.autocast("cpu", torch.bfloat16) if self.precision == "bf16" else nullcontext()

    def padded(self, texts: list[int], length: int) -> tuple[Tensor, Tensor]:
        """Return `input_ids` and `attention_mask` (N, length) of texts."""
        ids = torch.zeros(len(texts), length, dtype=torch.long)
        mask = torch.zeros_like(ids)
        for row, text in enumerate(texts):
            ids[row, : len(self.ids[text])] = torch.tensor(self.ids[text])
            mask[row, : len(self.ids[text])] = 1
        return ids, mask

    def tokenize(self, texts: list[str]) -> tuple[Tensor, Tensor]:
        """Return the tokens of texts, which are written as their numbers, padded to the longest."""
        numbers = [int(text) for text in texts]
        return self.padded(numbers, max(len(self.ids[number]) for number in numbers))


def authors_scores(project: Project, texts: list[int]) -> np.ndarray:
    """Return the scores (videos, texts) by the authors' procedure."""
    model, scores = project.model, np.empty((project.videos, len(texts)), dtype=np.float32)
    for video in range(project.videos):
        for start in range(0, len(texts), TEXTS_AT_ONCE):
            some = texts[start : start + TEXTS_AT_ONCE]
            ids, mask = project.padded(some, project.max_length)
            logits = []
            for clip in range(project.clips):
                visual = model.encode_video(project.pixels[video : video + 1, clip : clip + 1])
                states = _padded_states(model, ids, mask, visual.expand(len(some), -1, -1, -1))
                pooled = model.clipbert.pooler(states)  # of the first token
                logits.append(model.classifier(pooled.float()).float())
            scores[video, start : start + len(some)] = model.match_scores(torch.stack(logits).logsumexp(0)).numpy()
    return scores


def _padded_states(model: Any, ids: Tensor, mask: Tensor, visual: Tensor) -> Tensor:
    """Return the states of all tokens of texts with one clip each, padded as the texts are."""
    states: Tensor = model.clipbert.encode_pairs(ids, mask, visual)[:, 0]
    return states


def encoded(project: Project) -> Encoded:
    """Return the videos' visual tokens."""
    embeds = [project.model.encode_video(project.pixels[i : i + 1])[0] for i in range(project.videos)]
    return Encoded([str(i) for i in range(project.videos)], embeds)


def our_scores(project: Project, videos: Encoded, texts: list[int], batch_size: int) -> np.ndarray:
    """Return the scores (videos, texts) of the evaluation, of the cross-encoder alone."""
    contrast, project.model.contrast = project.model.contrast, None
    scores = np.empty((project.videos, len(texts)), dtype=np.float32)
    found = GalleryScores(
        model=project.model,
        videos=videos,
        gallery=videos.keys,
        texts=[str(text) for text in texts],
        owners=np.zeros(len(texts), dtype=np.int64),
        tokenize=project.tokenize,  # type: ignore[arg-type]
        batch_size=batch_size,
    )
    for block in found.blocks():
        scores[:, block.texts] = block.scores.T
    project.model.contrast = contrast
    return scores


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    """Return the processor seconds of a call and its result."""
    start = time.process_time()
    result = work()
    return time.process_time() - start, result


def changed_ranks(scores: np.ndarray, reference: np.ndarray, rounding: float) -> dict[str, Any]:
    """Return how the rank of video t mod V for text t differs between two matrices (videos, texts).

    Args:
        rounding: the largest difference that the number type makes to a score of the authors' procedure. A rank changed
            beyond it where no errors of this size can explain the change.
    """
    videos, texts = scores.shape
    own, rows = np.arange(texts) % videos, np.arange(texts)
    truth, found = reference[own, rows], scores[own, rows]
    above = (reference > truth + 2 * rounding).sum(axis=0)
    below = (reference < truth - 2 * rounding).sum(axis=0)
    beyond = ((scores > found).sum(axis=0) < above) | ((scores < found).sum(axis=0) < below)
    ranks = [[mean_rank_of(matrix[:, text], text % videos) for text in range(texts)] for matrix in (scores, reference)]
    moved = np.abs(np.subtract(*ranks))
    return {
        "ranks": texts,
        "changed": int((moved > 0).sum()),
        "changed_beyond_rounding": int(beyond.sum()),
        "largest_change": float(moved.max()),
        "largest_score_difference": float(np.abs(scores - reference).max()),
        "standard_deviation_of_scores": float(reference.std()),
    }


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Return times, ratios and ranks."""
    project = Project(options)
    ways = {"authors fp32": ("fp32", True), "authors bf16": ("bf16", True)}
    ways |= {"ours fp32": ("fp32", False), "ours bf16": ("bf16", False)}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    scores: dict[str, list[np.ndarray]] = {name: [] for name in ways}
    videos, vision = {}, {}
    parts = np.array_split(np.arange(options.texts), options.rounds)
    with torch.inference_mode():
        for precision in ("fp32", "bf16"):
            project.precision = precision
            with project.autocast():
                project.model.encode_video(project.pixels[:1, :1])  # compiles the operations
                vision[precision], videos[precision] = timed(lambda: encoded(project))
        for number, part in enumerate(parts):
            for name in list(ways)[:: 1 if number % 2 else -1]:
                project.precision, authors = ways[name]
                texts = part.tolist()
                with project.autocast():
                    if authors:
                        took, found = timed(lambda texts=texts: authors_scores(project, texts))
                    else:
                        own = videos[project.precision]
                        took, found = timed(
                            lambda texts=texts, own=own: our_scores(project, own, texts, options.batch_size)
                        )
                seconds[name].append(took)
                scores[name].append(found)
                print(f"round {number + 1}/{len(parts)}: {name} {took:.1f} s", flush=True)
        matrices = {name: np.concatenate(found, axis=1) for name, found in scores.items()}
        project.precision = "bf16"
        with project.autocast():
            stages = two_stages(project, videos["bf16"], options, seconds, vision)
    compared = [
        ("ours fp32", "authors fp32"),
        ("ours bf16", "authors bf16"),
        ("authors bf16", "authors fp32"),
        ("ours bf16", "authors fp32"),
    ]
    rounding = float(np.abs(matrices["authors bf16"] - matrices["authors fp32"]).max())
    ranks = {
        f"{one} and {other}": changed_ranks(matrices[one], matrices[other], 1e-5 if "bf16" not in one else rounding)
        for one, other in compared
    }
    return {
        "videos": options.videos,
        "texts": options.texts,
        "clips": options.clips,
        "vision_s": vision,
        "seconds": seconds,
        "ratios": {
            f"{one} over {other}": _ratio(seconds[one], seconds[other], vision[ways[other][0]])
            for one in ("authors fp32", "authors bf16")
            for other in ("ours fp32", "ours bf16")
        },
        "ranks": ranks,
        "two_stages": stages,
    }


def _ratio(theirs: list[float], ours: list[float], vision: float) -> dict[str, float]:
    """Return the ratio of the totals and its range over the rounds, each of which has a share of our vision half."""
    own = np.array(ours) + vision / len(ours)
    each = np.array(theirs) / own
    return {"total": float(sum(theirs) / own.sum()), "min": float(each.min()), "max": float(each.max())}


def two_stages(
    project: Project,
    videos: Encoded,
    options: argparse.Namespace,
    seconds: dict[str, list[float]],
    vision: dict[str, float],
) -> list[dict[str, Any]]:
    """Return the time of two stages at `options.gallery` videos with four texts each, from measured parts.

    The choice of the number of reranked videos on the validation split is included.
    """
    model, texts = project.model, [str(text) for text in range(options.texts)]
    own = videos.of(videos.keys)
    video_vectors, _ = timed(lambda: model.get_video_features(own))
    text_vectors, _ = timed(lambda: model.get_text_features(*project.tokenize(texts)))
    pairs = options.videos * options.texts
    per_pair = {name: sum(took) / pairs for name, took in seconds.items()}
    gallery, queries = options.gallery, 4 * options.gallery
    per_video = vision["bf16"] / options.videos
    choice = min(VALIDATION_TEXTS, queries) * min(VALIDATION_VIDEOS, gallery) * per_pair["ours bf16"]
    choice += min(VALIDATION_VIDEOS, gallery) * per_video
    rows = []
    for top_k in (20, 50, 100):
        parts = {
            "vision": gallery * per_video,
            "vectors": gallery * video_vectors / options.videos + queries * text_vectors / options.texts,
            "pairs": queries * top_k * per_pair["ours bf16"],
            "choice of top_k": choice,
        }
        ours = sum(parts.values())
        rows.append(
            {
                "top_k": top_k,
                "seconds": {name: round(value, 1) for name, value in parts.items()},
                "authors fp32 over it": queries * gallery * per_pair["authors fp32"] / ours,
                "authors bf16 over it": queries * gallery * per_pair["authors bf16"] / ours,
                "ours bf16 exact over it": (queries * gallery * per_pair["ours bf16"] + parts["vision"]) / ours,
            }
        )
    return rows


def main() -> None:
    """Print the tables; write them with --json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--videos", type=int, default=64)
    parser.add_argument("--texts", type=int, default=256)
    parser.add_argument("--clips", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=4, help="parts of the texts, in which the ways alternate")
    parser.add_argument("--gallery", type=int, default=1000, help="videos of the two-stage estimate")
    parser.add_argument("--batch-size", type=int, default=256, help="evaluate.batch_size")
    parser.add_argument("--spread", type=float, default=10.0, help="factor of the head's random weights")
    parser.add_argument("--tiny", action="store_true", help="a check of this program with a small model")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    result = measure(options)
    print(f"\n{options.videos} videos x {options.texts} texts x {options.clips} clips, {options.rounds} rounds")
    for name, value in result["ratios"].items():
        print(f"{name:<32} {value['total']:.2f} (rounds {value['min']:.2f} to {value['max']:.2f})")
    print(f"wanted: {WANTED_EXACT} exact")
    for name, value in result["ranks"].items():
        print(f"{name:<32} {value}")
    print(f"\ntwo stages at {options.gallery} videos x {4 * options.gallery} texts, wanted: {WANTED_TWO_STAGES}")
    for row in result["two_stages"]:
        print(row)
    if options.json:
        versions = {"torch": torch.__version__, "threads": torch.get_num_threads()}
        options.json.write_text(json.dumps({"versions": versions, **result}, indent=2) + "\n")


if __name__ == "__main__":
    main()
