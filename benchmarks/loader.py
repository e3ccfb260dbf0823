"""What the loader feeds against what a training step consumes, and the same loss curve in bf16 as in fp32.

    python -m benchmarks.loader PROJECT                        # the default job of a project, 0, 1 and 2 workers
    python -m benchmarks.loader PROJECT --num-workers 14       # with a GPU
    python -m benchmarks.loader PROJECT --curve 200 --seeds 3  # losses of the default job in fp32 and in bf16

PROJECT holds artifacts/manifest and artifacts/frames (`clipbert sample-data`, `ingest`, `validate`, `frames`). A step
is that of `clipbert train retrieval`. Data-wait is the share of a step's time in which it waits for its batch; what the
loader feeds alone is measured without any step. Steps start after the workers have. Each seed of the curves has its own
weights, order and clips, the same ones in both precisions.
"""

import argparse
import json
import multiprocessing
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from clipbert.config.schema import Params
from clipbert.data.manifest import read_texts
from clipbert.distributed.context import DistributedContext
from clipbert.frame_cache import FrameCache
from clipbert.tasks import make_task
from clipbert.tasks.examples import texts_with_frames
from clipbert.training.batch_iterator import SynchronizedBatchIterator
from clipbert.training.checkpoint import rng_states
from clipbert.training.data import Batches, DistributedBatchSampler, TrainingSamples
from clipbert.training.lr_schedule import lr_lambda
from clipbert.training.memory import keep_freed_memory
from clipbert.training.optim import set_learning_rate
from clipbert.training.setup import build_model
from clipbert.training.step import TrainStep
from clipbert.training.stopping import StopRequest

WANTED_WAIT, WANTED_FEED = 0.10, 2.0
WARM_UP = 5
CURVE_PARTS = 8


class Job:
    """The default retrieval training of a project, step by step."""

    def __init__(self, options: argparse.Namespace, seed: int, precision: str, num_workers: int, steps: int) -> None:
        artifacts = options.project / "artifacts"
        params = Params.model_validate({"seed": seed, "train": {"precision": precision}})
        task = make_task("retrieval", params.tasks)
        cache = FrameCache(artifacts / "frames")
        examples = task.examples.read(texts_with_frames(read_texts(artifacts / "manifest"), cache), "train")
        torch.manual_seed(seed)
        model, processor = build_model(task, examples, params.model, params.frames, params.evaluate.clips)
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        keep_freed_memory()  # as in a training
        self.params, self.steps, self.steps_made = params.train, steps, 0
        self.train_step = TrainStep(task, model, params.train, device, DistributedContext())
        sampler = DistributedBatchSampler(len(examples), params.train.batch_size, None, seed)
        samples = TrainingSamples(cache, examples, task, model.config, seed)
        self.loader = Batches(samples, sampler, processor, num_workers, device)
        self.clips = sampler.batch_size * model.config.clips
        stop, monitor = StopRequest(0, bound=False), self.train_step.monitor
        self.batches = SynchronizedBatchIterator(
            self.loader, DistributedContext(), stop, lambda: False, lambda: SystemExit(0), monitor
        )

    def step(self) -> tuple[float, float, float]:
        """Return the seconds of a step with its batch, the seconds of waiting for the batch, and the loss."""
        self.train_step.monitor.read()
        begin = time.perf_counter()
        set_learning_rate(self.train_step.optimizer, {"": lr_lambda(self.steps_made, self.steps, self.params)})
        loss = self.train_step.run(self.batches, 1, rng_states()).losses["loss"].item()
        seconds = time.perf_counter() - begin
        self.steps_made += 1
        return seconds, self.train_step.monitor.read()["data_wait"] * seconds, loss

    def feed_alone(self, batches: int) -> float:
        """Return the clips per second of the loader without training steps."""
        begin = time.perf_counter()
        for _ in range(batches):
            next(self.loader)
        return batches * self.clips / (time.perf_counter() - begin)


def spread(values: Any) -> dict[str, float]:
    """Median and quartiles."""
    low, middle, high = np.quantile(values, [0.25, 0.5, 0.75])
    return {"median": round(float(middle), 4), "q1": round(float(low), 4), "q3": round(float(high), 4)}


def waits(options: argparse.Namespace, num_workers: int) -> dict[str, Any]:
    """Measure with one number of workers."""
    job = Job(options, 0, options.precision, num_workers, options.steps + WARM_UP)
    for _ in range(WARM_UP):
        job.step()
    took = np.array([job.step()[:2] for _ in range(options.steps)])
    alone = Job(options, 0, options.precision, num_workers, options.steps + WARM_UP)
    alone.feed_alone(WARM_UP)
    fed = alone.feed_alone(options.steps)
    consumed = job.clips / float(np.median(took[:, 0] - took[:, 1]))
    return {
        "num_workers": num_workers,
        "step_s": spread(took[:, 0]),
        "data_wait": spread(took[:, 1] / took[:, 0]),
        "data_wait_of_all": round(float(took[:, 1].sum() / took[:, 0].sum()), 4),
        "fed_clips_per_s": round(fed, 1),
        "consumed_clips_per_s": round(consumed, 1),
        "fed_over_consumed": round(fed / consumed, 2),
    }


def curve(options: argparse.Namespace, which: tuple[str, int]) -> list[float]:
    """The losses of one training."""
    precision, seed = which
    job = Job(options, seed, precision, 0, options.curve)
    losses = [job.step()[2] for _ in range(options.curve)]
    print(f"{precision}, seed {seed}: mean loss of the last quarter {np.mean(losses[-options.curve // 4 :]):.4f}")
    return losses


def curves(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Mean losses of parts of the curves, how far the precisions are apart, and how far the seeds."""
    whole = [(precision, seed) for seed in range(options.seeds) for precision in ("fp32", "bf16")]
    with multiprocessing.get_context("spawn").Pool(options.at_once) as pool:
        losses = dict(zip(whole, pool.map(partial(curve, options), whole, chunksize=1), strict=True))
    rows = []
    for steps in np.array_split(np.arange(options.curve), CURVE_PARTS):
        fp32, bf16 = (
            np.array([np.mean([losses[precision, seed][step] for step in steps]) for seed in range(options.seeds)])
            for precision in ("fp32", "bf16")
        )
        rows.append(
            {
                "steps": [int(steps[0]) + 1, int(steps[-1]) + 1],
                "fp32": fp32.round(4).tolist(),
                "bf16": bf16.round(4).tolist(),
                "difference": round(float((bf16 - fp32).mean()), 4),
                "deviation_over_seeds": round(float(np.sqrt((fp32.var(ddof=1) + bf16.var(ddof=1)) / 2)), 4),
            }
        )
    return rows


def show_curves(rows: list[dict[str, Any]]) -> None:
    print(f"{'steps':<14}{'fp32':>8}{'bf16':>8}{'bf16 - fp32':>13}  {'a seed each':<28}deviation over the seeds")
    for row in rows:
        steps = f"{row['steps'][0]} to {row['steps'][1]}"
        each = ", ".join(f"{b - a:+.3f}" for a, b in zip(row["fp32"], row["bf16"], strict=True))
        print(
            f"{steps:<14}{np.mean(row['fp32']):>8.3f}{np.mean(row['bf16']):>8.3f}{row['difference']:>+13.3f}  "
            f"{each:<28}{row['deviation_over_seeds']:.3f}"
        )


def main() -> None:
    """Print the table; write it with --json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("project", type=Path)
    parser.add_argument("--num-workers", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--precision", choices=["auto", "fp32", "bf16", "fp16"], default="auto")
    parser.add_argument("--curve", type=int, default=0, help="steps of each training; 0: the loader is measured")
    parser.add_argument("--seeds", type=int, default=3, help="of the curves, 2 or more")
    parser.add_argument("--at-once", type=int, default=1, help="trainings of the curves, side by side")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if options.curve:
        rows = curves(options)
        show_curves(rows)
    else:
        rows = []
        print(f"{'num_workers':<13}{'step, s':>9}{'data-wait':>11}{'fed, clips/s':>14}{'consumed':>10}{'ratio':>7}")
        for num_workers in options.num_workers:
            rows.append(row := waits(options, num_workers))
            print(
                f"{num_workers:<13}{row['step_s']['median']:>9.3f}{row['data_wait_of_all']:>11.3f}"
                f"{row['fed_clips_per_s']:>14.1f}{row['consumed_clips_per_s']:>10.1f}{row['fed_over_consumed']:>7.2f}",
                flush=True,
            )
        print(f"wanted: a data-wait below {WANTED_WAIT}; with a GPU a ratio of at least {WANTED_FEED}")
    if options.json:
        versions = {"torch": torch.__version__, "threads": torch.get_num_threads()}
        options.json.write_text(json.dumps({"versions": versions, "rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
