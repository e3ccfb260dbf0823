"""What the contrastive term costs of a training step, and what the dual encoder then saves in search.

    python -m benchmarks.dual_encoder                                  # on a small sample set made here
    python -m benchmarks.dual_encoder --project FOLDER --presets tiny  # on a project's frames, and its retrieval model

Steps are those of `clipbert train retrieval`, loading included, of models that take turns on the same batches:
`tasks.retrieval.contrastive_weight` 0 and 1, and 1 with each tower in a pass of its own. Where the project has a
trained retrieval model, its test split is ranked exhaustively and with `evaluate.rerank_top_k`, part by part in turns,
after the vision half, which both need. Times are processor seconds, so that other programs count less; a ratio is the
median of the pairs', its quartiles in brackets.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from clipbert.config.schema import Params
from clipbert.data.ingest.stage import ingest
from clipbert.data.manifest import read_texts
from clipbert.data.synthetic.sample_set import make_sample_data
from clipbert.distributed.context import DistributedContext
from clipbert.frame_cache import FrameCache
from clipbert.frame_cache.build import build_cache
from clipbert.model import ClipBertProcessor, load
from clipbert.tasks import make_task
from clipbert.tasks.batch import Batch
from clipbert.tasks.examples import texts_with_frames
from clipbert.tasks.predict import ProcessorTokens, encode_videos
from clipbert.training.checkpoint import rng_states
from clipbert.training.data import Batches, DistributedBatchSampler, TrainingSamples
from clipbert.training.memory import keep_freed_memory
from clipbert.training.setup import build_model
from clipbert.training.step import TrainStep

# The base preset with what one core can step through in a minute: the paper trains with 8 clips of 2 frames. Frames of
# the cache are enlarged for it, which costs about what reading larger ones would.
PRESETS: dict[str, dict[str, Any]] = {
    "tiny": {"model": {"preset": "tiny"}},
    "base": {"model": {"preset": "base", "clips": 2}, "train": {"batch_size": 4}},
}
WANTED = 1.15
TEXTS_IN_A_PART = 16
SHOWN = (
    "r1",
    "r5",
    "r10",
    "dual_encoder_r1",
    "dual_encoder_r5",
    "dual_encoder_r10",
    "reranked_pairs",
    "first_stage_recall",
)


def spread(values: Any) -> dict[str, float]:
    """Median and quartiles."""
    low, middle, high = np.quantile(values, [0.25, 0.5, 0.75])
    return {"median": round(float(middle), 4), "q1": round(float(low), 4), "q3": round(float(high), 4)}


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    """(processor seconds, what the work returned)."""
    start = time.process_time()
    result = work()
    return time.process_time() - start, result


class Training:
    """A training, step by step."""

    def __init__(self, artifacts: Path, preset: str, contrastive_weight: float, packed: bool = True) -> None:
        tasks = {"retrieval": {"contrastive_weight": contrastive_weight}}
        params = Params.model_validate({**PRESETS[preset], "tasks": tasks, "frames": {"size": 448}})
        task = make_task("retrieval", params.tasks)
        cache = FrameCache(artifacts / "frames")
        examples = task.examples.read(texts_with_frames(read_texts(artifacts / "manifest"), cache), "train")
        torch.manual_seed(0)
        model, processor = build_model(task, examples, params.model, params.frames, params.evaluate.clips)
        if not packed:
            model.get_text_and_video_features = lambda ids, mask, video: (
                model.get_text_features(ids, mask),
                model.get_video_features(video),
            )
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        keep_freed_memory()  # as in a training
        self.device = device
        self.train_step = TrainStep(task, model, params.train, device, DistributedContext())
        sampler = DistributedBatchSampler(len(examples), params.train.batch_size, epochs=1000, seed=0)
        samples = TrainingSamples(cache, examples, task, model.config, seed=0)
        self.batches = Batches(samples, sampler, processor, 0, device)
        self.loading = 0.0
        self.batch_size = sampler.batch_size

    def __next__(self) -> Batch:
        """The next batch; how long it took is remembered."""
        self.loading, batch = timed(lambda: next(self.batches))
        return batch

    def step(self) -> tuple[float, float]:
        """Processor seconds of one step with and without the loading of its batch."""

        def work() -> None:
            self.train_step.run(self, 1, rng_states())  # type: ignore[arg-type]
            if self.device.type == "cuda":
                torch.cuda.synchronize()

        seconds, _ = timed(work)
        return seconds, seconds - self.loading


def cost_of_the_term(artifacts: Path, preset: str, steps: int) -> list[dict[str, Any]]:
    """Steps in turns without the contrastive term, with it, and with one pass for each encoder: as trained,
    and without loading."""
    ways = {
        "without": Training(artifacts, preset, 0.0),
        "with": Training(artifacts, preset, 1.0),
        "apart": Training(artifacts, preset, 1.0, packed=False),
    }
    for training in ways.values():
        training.step()
    seen: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    for number in range(steps):
        for name in list(ways)[:: 1 if number % 2 else -1]:
            seen[name].append(ways[name].step())
    rows = []
    for place, what in enumerate(("a step", "without loading")):
        took = {name: np.array([step[place] for step in found]) for name, found in seen.items()}
        rows.append(
            {
                "what": f"{preset}, {what}",
                "videos": ways["with"].batch_size,
                "steps": steps,
                **{f"{name}_s": spread(values) for name, values in took.items()},
                "ratio": spread(took["with"] / took["without"]),
                "apart_ratio": spread(took["apart"] / took["without"]),
            }
        )
    return rows


def first_stage(artifacts: Path, model_dir: Path, rerank: int) -> list[dict[str, Any]]:
    """The test split ranked exhaustively and from the most similar by the dual encoder: seconds and recall."""
    params = Params()
    cache = FrameCache(artifacts / "frames")
    model = load(model_dir).to("cuda" if torch.cuda.is_available() else "cpu")
    processor = ClipBertProcessor.from_pretrained(model_dir)
    tokenize = ProcessorTokens(processor, model.device)
    plain = make_task("retrieval", params.tasks)
    examples = plain.examples.read(texts_with_frames(read_texts(artifacts / "manifest"), cache), "test")
    evaluate = params.evaluate
    settings = {count: evaluate.model_copy(update={"rerank_top_k": count}) for count in (None, rerank)}
    ways = {count: plain.evaluator.with_settings(chosen) for count, chosen in settings.items()}
    rows: dict[int | None, list[dict[str, Any]]] = {count: [] for count in ways}
    seconds: dict[int | None, list[float]] = {count: [] for count in ways}
    with torch.inference_mode():
        vision, videos = timed(lambda: encode_videos(model, processor, cache, examples, params.evaluate.clips))
        running = {
            count: evaluator.predict(model, videos, examples, tokenize, params.evaluate.batch_size)
            for count, evaluator in ways.items()
        }
        texts = plain.evaluator.count(examples)
        parts = [min(TEXTS_IN_A_PART, texts - start) for start in range(0, texts, TEXTS_IN_A_PART)]
        for texts in parts:
            for count, items in running.items():
                took, part = timed(partial(list, islice(items, texts)))
                seconds[count].append(took)
                rows[count] += part
    result = []
    for count in ways:
        metrics = plain.evaluator.metrics(pd.DataFrame(rows[count]))
        result.append(
            {
                "what": "every video judged" if count is None else f"the best {count} judged",
                "texts": len(rows[count]),
                "videos": len(examples),
                "vision_s": round(vision, 2),
                "seconds": round(sum(seconds[count]), 2),
                "ms_a_text": spread([1000 * took / texts for took, texts in zip(seconds[count], parts, strict=True)]),
                "ratio": spread([a / b for a, b in zip(seconds[count], seconds[None], strict=True)]),
                **{name: round(metrics[f"retrieval/{name}"], 2) for name in SHOWN if f"retrieval/{name}" in metrics},
            }
        )
    return result


def make_project(root: Path, media: int) -> Path:
    """A small sample set, ingested and cached."""
    params = Params.model_validate({"ingest": {"max_quarantined_fraction": 0.5}})
    artifacts = root / "artifacts"
    make_sample_data(root / "data", train=media, val=8, test=8)
    ingest(root / "data", artifacts / "manifest", params.ingest)
    build_cache(root / "data", artifacts / "manifest", artifacts / "frames", params.frames)
    return artifacts


def show(value: dict[str, float], form: str = ".3f") -> str:
    return f"{value['median']:{form}} ({value['q1']:{form}} to {value['q3']:{form}})"


def main() -> None:
    """Print the tables; write them with --json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--project", type=Path, help="whose artifacts/manifest and artifacts/frames are read")
    parser.add_argument("--model", type=Path, help="a trained retrieval model; default: the project's")
    parser.add_argument("--presets", nargs="*", choices=list(PRESETS), default=["tiny"])
    parser.add_argument("--steps", type=int, default=40, help="pairs of steps")
    parser.add_argument("--rerank", type=int, default=10)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        artifacts = options.project / "artifacts" if options.project else make_project(Path(temporary), 256)
        costs = [row for preset in options.presets for row in cost_of_the_term(artifacts, preset, options.steps)]
        model_dir = options.model or artifacts / "models" / "retrieval"
        searches = first_stage(artifacts, model_dir, options.rerank) if model_dir.exists() else []
    print(f"{'training':<24}{'videos':>7}{'steps':>6}  {'without, s':<24}{'with, s':<24}{'ratio':<24}two passes")
    for row in costs:
        print(
            f"{row['what']:<24}{row['videos']:>7}{row['steps']:>6}  {show(row['without_s']):<24}"
            f"{show(row['with_s']):<24}{show(row['ratio']):<24}{show(row['apart_ratio'])}"
        )
    print(f"wanted: a ratio of at most {WANTED}")
    if searches:
        print(f"\n{'search':<24}{'texts':>6}{'videos':>7}{'seconds':>9}  {'ms a text':<26}{'ratio':<26}R@1, R@5, R@10")
    for row in searches:
        print(
            f"{row['what']:<24}{row['texts']:>6}{row['videos']:>7}{row['seconds']:>9}  "
            f"{show(row['ms_a_text'], '.1f'):<26}{show(row['ratio']):<26}{row['r1']}, {row['r5']}, {row['r10']}"
        )
    if options.json:
        versions = {"torch": torch.__version__, "threads": torch.get_num_threads()}
        options.json.write_text(json.dumps({"versions": versions, "cost": costs, "search": searches}, indent=2) + "\n")


if __name__ == "__main__":
    main()
