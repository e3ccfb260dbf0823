"""Cost of checkpoints: how long the loop waits for one, and how much slower steps are during the writing.

    python -m benchmarks.checkpoints                        # base preset, bf16, 1 video x 4 clips x 2 frames x 448
    python -m benchmarks.checkpoints --size 224 --clips 1   # short steps, of which the copy is a larger part
    python -m benchmarks.checkpoints --folder /mnt/results  # on another disk

Each round makes some steps of retrieval (`TrainStep.run`), saves (`Checkpoints.save`: the loop waits for the copy; a
thread writes it, flushes it to disk and computes its checksums), and continues with steps until the thread is done.
With `--best` the best weights are saved as well, as after an epoch. The share of the loop's time assumes one checkpoint
every `--every` steps (`train.checkpoint_every_steps`): for waiting alone, and with the slowdown of steps during the
writing.
"""

import argparse
import json
import tempfile
import threading
import time
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

from clipbert.config.schema import Params
from clipbert.distributed.context import DistributedContext
from clipbert.model import ClipBertConfig, ClipBertForRetrieval
from clipbert.tasks import make_task
from clipbert.tasks.batch import Batch
from clipbert.training.batch_iterator import SynchronizedBatchIterator
from clipbert.training.checkpoint import Checkpoints, TrainState, rng_states
from clipbert.training.memory import keep_freed_memory
from clipbert.training.step import TrainStep

WANTED = 0.05
TEXT_LENGTH = 32


class SameBatch:
    """A feed that never waits: always the same videos."""

    def __init__(self, options: argparse.Namespace, device: torch.device) -> None:
        self.batches, self.position = self, 0
        videos = options.videos
        shape = (videos, options.clips, options.frames, 3, options.size, options.size)
        self.batch = Batch(
            pixel_values=torch.randint(0, 256, shape, dtype=torch.uint8),
            input_ids=torch.randint(1000, 30000, (videos, TEXT_LENGTH)),
            attention_mask=torch.ones(videos, TEXT_LENGTH, dtype=torch.long),
            texts_per_video=torch.ones(videos, dtype=torch.long),
            labels=torch.ones(videos, dtype=torch.long),
            ids=[str(video) for video in range(videos)],
            texts_per_item=torch.ones(videos, dtype=torch.long),
            draws=torch.rand(videos, 1, dtype=torch.float64),
        ).to(device)

    def __next__(self) -> Batch:
        return self.batch


class Training:
    """Steps of retrieval and its checkpoints."""

    def __init__(self, options: argparse.Namespace, folder: Path) -> None:
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        values = {"train": {"precision": options.precision}, "tasks": {"retrieval": {"contrastive_weight": 0.0}}}
        params = Params.model_validate(values)
        torch.manual_seed(0)
        self.model = ClipBertForRetrieval(ClipBertConfig.base(clips=options.clips, frames_per_clip=options.frames))
        keep_freed_memory()  # as in a training
        task = make_task("retrieval", params.tasks)
        self.train_step = TrainStep(task, self.model, params.train, self.device, DistributedContext())
        self.batches = cast(SynchronizedBatchIterator, SameBatch(options, self.device))
        self.checkpoints, self.state = Checkpoints(folder, {}), TrainState()

    def step(self) -> float:
        """Make a step and return its seconds."""
        begin = time.perf_counter()
        self.train_step.run(self.batches, 1, rng_states())
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        self.state.step += 1
        return time.perf_counter() - begin

    def save(self, best: bool) -> tuple[float, float, list[float]]:
        """Return the seconds that the loop waited, that the thread wrote, and of each step during the writing."""
        if best:
            self.state.best_step = self.state.step
        before = self.state.saving_seconds
        weights = self.model.state_dict() if best else None
        self.checkpoints.save(self.state, self.train_step.state_dict(), [rng_states()], weights)
        begin, done = time.perf_counter(), threading.Event()
        written: list[float] = []

        def watch() -> None:
            self.checkpoints.finish()
            written.append(time.perf_counter() - begin)
            done.set()

        threading.Thread(target=watch).start()
        during = []
        while not done.is_set():
            seconds = self.step()
            if not done.is_set() or not during:  # the first one counts even if the writing was faster
                during.append(seconds)
        return self.state.saving_seconds - before, written[0], during


def spread(values: Any) -> dict[str, float]:
    """Median and quartiles."""
    low, middle, high = np.quantile(values, [0.25, 0.5, 0.75])
    return {"median": round(float(middle), 4), "q1": round(float(low), 4), "q3": round(float(high), 4)}


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Run all rounds and return the results."""
    alone, waited, written, slower, lost = [], [], [], [], []
    with tempfile.TemporaryDirectory(dir=options.folder, prefix="checkpoints-") as folder:
        training = Training(options, Path(folder))
        for _ in range(options.warmup):
            training.step()
        for number in range(options.rounds + 1):
            undisturbed = [training.step() for _ in range(options.steps)]
            copying, writing, during = training.save(options.best)
            if number == 0:
                first = copying  # includes the allocation of memory
                continue
            alone += undisturbed
            waited.append(copying)
            written.append(writing)
            slower.append(np.mean(during) / np.median(undisturbed))
            lost.append(max(0.0, float(np.sum(during) - len(during) * np.median(undisturbed))))
        size = sum(file.stat().st_size for file in max(Path(folder).glob("step-*")).iterdir())
    period = options.every * float(np.median(alone))
    return {
        "checkpoint_gb": round(size / 1e9, 3),
        "rounds": options.rounds,
        "step_s": spread(alone),
        "waited_s": spread(waited),
        "waited_for_the_first_s": round(first, 2),
        "written_s": spread(written),
        "steps_during_writing_over_alone": spread(slower),
        "waiting_share": spread([w / (period + w) for w in waited]),
        "share_with_slower_steps": spread([(w + s) / (period + w + s) for w, s in zip(waited, lost, strict=True)]),
    }


def show(value: dict[str, float], form: str = ".2f") -> str:
    return f"{value['median']:{form}} ({value['q1']:{form}} to {value['q3']:{form}})"


def main() -> None:
    """Print the table; write it with --json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--precision", choices=["auto", "fp32", "bf16", "fp16"], default="bf16")
    parser.add_argument("--videos", type=int, default=1)
    parser.add_argument("--clips", type=int, default=4)
    parser.add_argument("--frames", type=int, default=2)
    parser.add_argument("--size", type=int, default=448)
    parser.add_argument("--every", type=int, default=100, help="steps between two checkpoints")
    parser.add_argument("--rounds", type=int, default=5, help="checkpoints")
    parser.add_argument("--steps", type=int, default=4, help="between two checkpoints, here")
    parser.add_argument("--warmup", type=int, default=2)
    parser.add_argument("--best", action="store_true", help="the best weights as well, each time")
    parser.add_argument("--folder", type=Path, help="where to write; default: where temporary files go")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    result = measure(options)
    print(f"a checkpoint: {result['checkpoint_gb']} GB; waited for the first: {result['waited_for_the_first_s']} s")
    for name, form in (
        ("step_s", ".2f"),
        ("waited_s", ".2f"),
        ("written_s", ".2f"),
        ("steps_during_writing_over_alone", ".2f"),
        ("waiting_share", ".4f"),
        ("share_with_slower_steps", ".4f"),
    ):
        print(f"{name.replace('_', ' '):<30}{show(result[name], form)}")
    print(f"wanted at a checkpoint every {options.every} steps: a share of at most {WANTED}")
    if options.json:
        asked = {name: getattr(options, name) for name in ("precision", "videos", "clips", "frames", "size", "every")}
        versions = {"torch": torch.__version__, "threads": torch.get_num_threads()}
        options.json.write_text(json.dumps({**asked, **result, "versions": versions}, indent=2) + "\n")


if __name__ == "__main__":
    main()
