"""The training loop, read top to bottom: the same for every task."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import pandas as pd
import torch
import transformers
from torch import Tensor

from clipbert.console import console, progress
from clipbert.errors import ClipBertError
from clipbert.files import atomic_directory
from clipbert.frames import FrameCache
from clipbert.model.card import write_card
from clipbert.params import Params
from clipbert.tasks.base import Batch, Example, Task
from clipbert.tasks.predict import predict
from clipbert.train.checkpoint import Checkpoints, Progress
from clipbert.train.loader import TrainingOrder, TrainingSamples, training_batches
from clipbert.train.optim import make_optimizer, set_learning_rate

LOG_EVERY_STEPS = 10


class Tracker(Protocol):
    """Where metrics go; MLflow's is in release/tracking.py."""

    @property
    def run_id(self) -> str | None:
        """The run to go on with after a kill."""

    def log_metrics(self, values: dict[str, float], step: int) -> None:
        """Record values at a step."""


@dataclass(frozen=True)
class Run:
    """All that one training needs."""

    task: Task
    model: Any
    processor: Any
    cache: FrameCache
    train: list[Example]
    val: list[Example]
    params: Params
    checkpoints: Checkpoints
    device: torch.device


def train(run: Run, state: Progress, optimizer: torch.optim.AdamW, tracker: Tracker) -> Progress:
    """Train from `state` to the last epoch; the best epoch's weights end up in `run.model`.

    Raises:
        ClipBertError: the loss stopped being a number; the last checkpoint is left as it is.
    """
    task, model, params = run.task, run.model, run.params.train
    order = TrainingOrder(
        len(run.train), params.batch_size, epochs_of(run), run.params.seed, state.step, params.accumulate
    )
    samples = TrainingSamples(run.cache, run.train, task, model.config, run.params.seed)
    batches = iter(
        training_batches(samples, order, run.processor, params.workers, pin_memory=run.device.type == "cuda")
    )
    clips = order.batch_size * order.accumulate * model.config.clips
    state.run_id = tracker.run_id
    model.train()

    with progress(f"train {task.name}", order.steps, done=state.step) as advance, stop_with_dvc() as orphaned:
        clock = time.monotonic()
        for step in range(state.step, order.steps):
            factor = set_learning_rate(optimizer, step, order.steps, params.warmup_fraction)
            optimizer.zero_grad(set_to_none=True)
            loss, parts, ids = backward(run, batches, order.accumulate)
            norm = torch.nn.utils.clip_grad_norm_(model.parameters(), params.clip_norm)
            if not torch.isfinite(norm):
                raise ClipBertError(
                    f"train {task.name}: the loss or its gradient is not a number at step {step} (texts "
                    f"{', '.join(ids[:8])}, ...). Lower train.lr (now {params.lr}) or train.clip_norm "
                    f"(now {params.clip_norm}) and run again; the checkpoint before it is kept."
                )
            optimizer.step()
            state.step = step + 1

            seconds = time.monotonic() - clock
            if state.step % LOG_EVERY_STEPS == 0 or state.step == order.steps:
                row = {"loss": loss.item(), **{name: value.item() for name, value in parts.items()}}
                row |= {"lr": factor * params.lr, "grad_norm": norm.item(), "clips_per_s": clips / seconds}
                state.history.append({"step": state.step, "epoch": 1 + step // order.steps_per_epoch, **row})
                tracker.log_metrics({f"train/{name}": value for name, value in row.items()}, state.step)
            state.seconds += seconds
            clock = time.monotonic()
            advance(1, f"loss {loss:.3f}  {clips / seconds:.0f} clips/s")

            end_of_epoch = state.step % order.steps_per_epoch == 0
            if end_of_epoch:
                epoch = state.step // order.steps_per_epoch
                metrics = validate(run)
                state.validation.append({"step": state.step, "epoch": epoch, **metrics})
                tracker.log_metrics({f"val/{name}": value for name, value in metrics.items()}, state.step)
                if metrics[task.main_metric] > state.best:
                    state.best, state.best_epoch = metrics[task.main_metric], epoch
                    run.checkpoints.save_best(model)
            if end_of_epoch or state.step % params.checkpoint_every_steps == 0:
                run.checkpoints.save(model, optimizer, state)
                if orphaned():
                    raise ClipBertError(
                        f"train {task.name}: the dvc process that started this training is gone; stopped at step "
                        f"{state.step} with its state saved. Run `dvc repro` (or `make run`) to go on."
                    )
            clock = time.monotonic()

    run.checkpoints.load_best(model)
    return state


def backward(run: Run, batches: Iterator[Batch], accumulate: int) -> tuple[Tensor, dict[str, Tensor], list[str]]:
    """Add the gradient of the mean loss over the next `accumulate` batches: that of one large batch, in less memory.

    Returns:
        the mean loss and the means of its parts, detached, and the ids of all texts.
    """
    losses: dict[str, Tensor] = {}
    ids: list[str] = []
    for _ in range(accumulate):
        batch = next(batches).to(run.device)
        with autocast(run.device, run.params.train.precision):
            loss, parts = run.task.loss(run.model, batch)
        (loss / accumulate).backward()
        for name, value in {"loss": loss, **parts}.items():
            losses[name] = losses.get(name, 0) + value.detach() / accumulate
        ids += batch.ids
    return losses.pop("loss"), losses, ids


def start(run: Run) -> tuple[Progress, torch.optim.AdamW]:
    """Model on its device, optimiser made, and both set to the last checkpoint that belongs to today's inputs."""
    torch.manual_seed(run.params.seed)
    run.model.to(run.device)
    optimizer = make_optimizer(run.model, run.params.train)
    state = run.checkpoints.load(run.model, optimizer)
    if state.step:
        console.print(f"Resuming {run.task.name} at step {state.step} from {run.checkpoints.folder}", markup=False)
    return state, optimizer


def validate(run: Run) -> dict[str, float]:
    """The task's metrics on the validation examples, one uniform clip a video; each group is predicted by itself."""
    run.model.eval()
    batch = run.params.evaluate.batch_size
    with autocast(run.device, run.params.train.precision):
        items = [
            predict(run.task, run.model, run.processor, run.cache, group, clips=1, batch_size=batch)
            for group in run.task.validation(run.val)
        ]
    run.model.train()
    return run.task.metrics(pd.concat(items, ignore_index=True))


def export(run: Run, out: Path, card: str) -> None:
    """Write what `clipbert.model.load` reads: config.json, model.safetensors, tokenizer and processor; and the card."""
    transformers.utils.logging.disable_progress_bar()  # two lines of it for one small file
    run.model.to("cpu")
    with atomic_directory(out) as folder:
        run.model.save_pretrained(folder)
        run.processor.save_pretrained(folder)
        write_card(folder, card)


def epochs_of(run: Run) -> int:
    """How often the run visits each video."""
    return int(getattr(run.params.tasks, run.task.name).epochs)


def autocast(device: torch.device, precision: str) -> Any:
    """Mixed precision where it was asked for; weights and optimiser stay fp32."""
    return torch.autocast(device.type, torch.bfloat16) if precision == "bf16" else nullcontext()


@contextmanager
def stop_with_dvc() -> Iterator[Any]:
    """Yields a check whether the dvc that started this process has died: DVC kills no child of its own, and an
    orphan would go on training beside the next `dvc repro`."""
    parent = os.getppid()
    yield lambda: "DVC_STAGE" in os.environ and os.getppid() != parent
