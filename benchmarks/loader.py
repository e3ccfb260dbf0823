"""What the loader feeds against what a training step consumes, and the same loss curve in bf16 as in fp32.

    python -m benchmarks.loader PROJECT                        # the default job of a project, 0, 1 and 2 workers
    python -m benchmarks.loader PROJECT --workers 14           # beside a GPU
    python -m benchmarks.loader PROJECT --curve 200 --seeds 3  # losses of the default job in fp32 and in bf16

PROJECT holds artifacts/manifest and artifacts/frames (`clipbert sample-data`, `ingest`, `validate`, `frames`). A step
is that of `clipbert train retrieval`. Data-wait is the share of a step's time in which it waits for its batch; what the
loader feeds alone is measured without any step. Steps start after the workers have.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from clipbert.data.manifest import read_texts
from clipbert.frames import FrameCache
from clipbert.params import Params
from clipbert.tasks import make_task
from clipbert.tasks.base import texts_with_frames
from clipbert.train.loader import TrainingOrder, TrainingSamples, training_batches
from clipbert.train.memory import keep_freed_memory
from clipbert.train.optim import make_optimizer, set_learning_rate
from clipbert.train.precision import Precision
from clipbert.train.schedule import factor
from clipbert.train.setup import build_model

WANTED_WAIT, WANTED_FEED = 0.10, 2.0
WARM_UP = 5


class Job:
    """The default retrieval training of a project, step by step."""

    def __init__(self, options: argparse.Namespace, seed: int, precision: str, workers: int, steps: int) -> None:
        artifacts = options.project / "artifacts"
        self.params = Params.model_validate({"seed": seed})
        self.task = make_task("retrieval", self.params)
        cache = FrameCache(artifacts / "frames")
        examples = self.task.examples(texts_with_frames(read_texts(artifacts / "manifest"), cache), "train")
        torch.manual_seed(seed)
        model, processor = build_model(self.task, examples, self.params)
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.model = model.to(self.device).train()
        self.precision = Precision.choose(precision, self.device, model.config)
        self.optimizer = make_optimizer(self.model, self.params.train)
        self.steps = steps
        epochs = 1 + steps * self.params.train.batch_size // len(examples)
        order = TrainingOrder(len(examples), self.params.train.batch_size, epochs + 1, seed)
        samples = TrainingSamples(cache, examples, self.task, model.config, seed)
        self.clips = order.batch_size * model.config.clips
        self.batches = iter(training_batches(samples, order, processor, workers, self.device.type == "cuda"))

    def step(self, number: int) -> tuple[float, float, float]:
        """(seconds of the step with its batch, of waiting for the batch, loss)."""
        start = time.perf_counter()
        batch = next(self.batches)
        waited = time.perf_counter() - start
        set_learning_rate(self.optimizer, factor(number, self.steps, self.params.train))
        self.optimizer.zero_grad(set_to_none=True)
        with self.precision.autocast():
            loss, _ = self.task.loss(self.model, batch.to(self.device))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.params.train.clip_norm)
        self.optimizer.step()
        value = loss.item()
        return time.perf_counter() - start, waited, value

    def feed(self, batches: int) -> list[float]:
        """Clips a second that the loader makes of itself, batch by batch."""
        rates = []
        for _ in range(batches):
            start = time.perf_counter()
            next(self.batches)
            rates.append(self.clips / (time.perf_counter() - start))
        return rates


def spread(values: Any) -> dict[str, float]:
    """Median and quartiles."""
    low, middle, high = np.quantile(values, [0.25, 0.5, 0.75])
    return {"median": round(float(middle), 4), "q1": round(float(low), 4), "q3": round(float(high), 4)}


def waits(options: argparse.Namespace, workers: int) -> dict[str, Any]:
    """One number of workers."""
    job = Job(options, 0, options.precision, workers, options.steps + WARM_UP)
    for number in range(WARM_UP):
        job.step(number)
    took = np.array([job.step(WARM_UP + number)[:2] for number in range(options.steps)])
    alone = Job(options, 0, options.precision, workers, options.steps + WARM_UP)
    alone.feed(WARM_UP)
    start = time.perf_counter()
    alone.feed(options.steps)
    fed = options.steps * alone.clips / (time.perf_counter() - start)
    consumed = job.clips / float(np.median(took[:, 0] - took[:, 1]))
    return {
        "workers": workers,
        "step_s": spread(took[:, 0]),
        "data_wait": spread(took[:, 1] / took[:, 0]),
        "data_wait_of_all": round(float(took[:, 1].sum() / took[:, 0].sum()), 4),
        "fed_clips_per_s": round(fed, 1),
        "consumed_clips_per_s": round(consumed, 1),
        "fed_over_consumed": round(fed / consumed, 2),
    }


def curves(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Losses of each precision and seed, and how far apart they are."""
    losses: dict[tuple[str, int], np.ndarray] = {}
    for seed in range(options.seeds):
        for precision in ("fp32", "bf16"):
            job = Job(options, seed, precision, 0, options.curve)
            losses[precision, seed] = np.array([job.step(number)[2] for number in range(options.curve)])
            tail = losses[precision, seed][-options.curve // 4 :].mean()
            print(f"seed {seed}, {precision}: mean loss of the last quarter {tail:.4f}", flush=True)
    rows = []
    for start in range(0, options.curve, max(1, options.curve // 8)):
        part = slice(start, start + max(1, options.curve // 8))
        means = {
            name: np.array([losses[name, seed][part].mean() for seed in range(options.seeds)])
            for name in ("fp32", "bf16")
        }
        rows.append(
            {
                "steps": [start, min(part.stop, options.curve)],
                **{name: round(float(value.mean()), 4) for name, value in means.items()},
                "bf16_minus_fp32": round(float((means["bf16"] - means["fp32"]).mean()), 4),
                "fp32_deviation_over_seeds": round(float(means["fp32"].std(ddof=1)) if options.seeds > 1 else 0.0, 4),
            }
        )
    return rows


def main() -> None:
    """Print the table; write it with --json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("project", type=Path)
    parser.add_argument("--workers", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--precision", choices=["auto", "fp32", "bf16", "fp16"], default="auto")
    parser.add_argument("--curve", type=int, default=0, help="steps of each training; 0: the loader is measured")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    keep_freed_memory()
    if options.curve:
        rows = curves(options)
        print(f"{'steps':<14}{'fp32':>9}{'bf16':>9}{'bf16 - fp32':>13}{'deviation of fp32 over seeds':>31}")
        for row in rows:
            print(
                f"{row['steps'][0]:>4} to {row['steps'][1]:<5}{row['fp32']:>9.4f}{row['bf16']:>9.4f}"
                f"{row['bf16_minus_fp32']:>13.4f}{row['fp32_deviation_over_seeds']:>31.4f}"
            )
    else:
        rows = []
        print(f"{'workers':<9}{'step, s':>9}{'data-wait':>11}{'fed, clips/s':>14}{'consumed':>10}{'ratio':>7}")
        for workers in options.workers:
            rows.append(row := waits(options, workers))
            print(
                f"{workers:<9}{row['step_s']['median']:>9.3f}{row['data_wait_of_all']:>11.3f}"
                f"{row['fed_clips_per_s']:>14.1f}{row['consumed_clips_per_s']:>10.1f}{row['fed_over_consumed']:>7.2f}",
                flush=True,
            )
        print(f"wanted: a data-wait below {WANTED_WAIT}; beside a GPU a ratio of at least {WANTED_FEED}")
    if options.json:
        versions = {"torch": torch.__version__, "threads": torch.get_num_threads()}
        options.json.write_text(json.dumps({"versions": versions, "rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
