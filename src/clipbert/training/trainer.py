"""The training loop, read top to bottom: the same for every task."""

import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import pandas as pd
import torch
import transformers

from clipbert.config.schema import Params
from clipbert.console import console, progress
from clipbert.distributed.context import DistributedContext
from clipbert.errors import USER_ERROR, ClipBertError, first_line
from clipbert.files.atomic import atomic_directory
from clipbert.frame_cache import FrameCache
from clipbert.model.weights.card import write_card
from clipbert.model.weights.checksums import sign_folder
from clipbert.tasks.base import Example, Task
from clipbert.tasks.predict import predict
from clipbert.training.batch_iterator import StopTraining, SynchronizedBatchIterator
from clipbert.training.budget import ResourceUsage, make_budget_tracker
from clipbert.training.checkpoint import Checkpoints, TrainState, generator_states, restore_generators, snapshot
from clipbert.training.data import Batches, DistributedBatchSampler, TrainingSamples
from clipbert.training.early_stopping import out_of_patience
from clipbert.training.fault_tolerance import BAD_STEPS, NonFiniteGuard
from clipbert.training.length import TrainingLength, training_length
from clipbert.training.lr_schedule import factor
from clipbert.training.memory import freed_memory_kept, is_out_of_memory
from clipbert.training.monitor import ThroughputMonitor
from clipbert.training.optim import set_learning_rate
from clipbert.training.step import TrainStep
from clipbert.training.stopping import stop_requests

LOG_EVERY_STEPS = 10


class Tracker(Protocol):
    """Where metrics go; MLflow's is in release/tracking.py."""

    @property
    def run_id(self) -> str | None:
        """The run to go on with after a kill."""

    def log_metrics(self, values: dict[str, float], step: int) -> None:
        """Record values at a step."""

    def flush(self) -> None:
        """Make what was recorded outlive the machine."""


class NoOpTracker:
    """The tracker of all processes but the first."""

    run_id = None

    def log_metrics(self, values: dict[str, float], step: int) -> None:
        """Nothing."""

    def flush(self) -> None:
        """Nothing."""


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
    ranks: DistributedContext = DistributedContext()  # noqa: RUF009

    def order(self, step: int = 0) -> DistributedBatchSampler:
        """Which examples are in which step, from `step` on; endless where a budget says when the training ends."""
        train = self.params.train
        order = DistributedBatchSampler(
            len(self.train),
            train.batch_size,
            None if train.budget else self.length().epochs,
            self.params.seed,
            gradient_accumulation_steps=train.gradient_accumulation_steps,
            rank=self.ranks.rank,
            world=self.ranks.world,
        )
        order.start = step * order.gradient_accumulation_steps
        return order

    def length(self) -> TrainingLength:
        """Return the number of epochs and how often the model is validated."""
        train = self.params.train
        epochs = int(getattr(self.params.tasks, self.task.name).epochs)
        return training_length(
            len(self.train), train.batch_size, train.gradient_accumulation_steps, epochs, train.min_steps
        )


def train(run: Run, state: TrainState, stepper: TrainStep, tracker: Tracker) -> TrainState:
    """Train from `state` to the last epoch or the end of the budget; the best epoch's weights end up in `run.model`.

    Raises:
        ClipBertError: too many steps had to be left out, a batch cannot be made, or not even a part of one fits into
            the memory; the state is saved.
        Stopped: SIGTERM or Ctrl-C; the state is saved.
    """
    task, params, ranks, checkpoints, meter = run.task, run.params.train, run.ranks, run.checkpoints, stepper.meter
    order = run.order(state.step)
    steps_per_validation = order.steps_per_epoch * (1 if params.budget else run.length().epochs_per_validation)
    samples = TrainingSamples(run.cache, run.train, task, run.model.config, run.params.seed)
    batches = Batches(samples, order, run.processor, params.num_workers, run.device)
    pace = make_budget_tracker(params.budget, order.steps or 0, meter, state.pace)
    bad_steps = NonFiniteGuard(task.name, checkpoints.folder, params.max_bad_steps, ranks, state.bad_steps)
    clock = UsageTimer(state.seconds, meter, pace.budget.unit, ranks)
    meter.load_state_dict({"joules": state.joules if ranks.first else 0.0})  # all of them took these together
    state.run_id = tracker.run_id
    saved, owed, generators, note = state.step, False, generator_states(), ""
    total, shown = int(pace.budget.amount), int(pace.budget.of(clock.spent(state.step)))

    bar = progress(f"train {task.name}", total, done=shown)
    with freed_memory_kept(run.device), stop_requests() as stop, bar as advance:
        feed = SynchronizedBatchIterator(
            batches, ranks, stop, lambda: checkpoints.busy, lambda: stop.end(task.name, state.step), meter
        )
        try:
            while True:
                before, better = clock.spent(state.step), False
                finished = pace.finished(before)
                epoch_ended = state.step > 0 and state.step % steps_per_validation == 0
                validates = finished or pace.validates(before, epoch_ended)
                if validates and state.step > state.validated_step:
                    metrics = validate(run, stepper, feed)
                    pace.validated(before, clock.spent(state.step))
                    better = state.judge(metrics, task.main_metric, math.ceil(state.step / order.steps_per_epoch))
                    tracker.log_metrics({f"val/{name}": value for name, value in metrics.items()}, state.step)
                    owed = True
                finished = finished or out_of_patience(state.validation, task.main_metric, params.patience)
                owed = state.step > saved and (owed or state.step % params.checkpoint_every_steps == 0)
                if owed and (better or finished or not feed.busy):
                    state.note(clock.spent(state.step), bad_steps.settle(), pace.state_dict())
                    tracker.flush()  # no checkpoint is ahead of what was recorded up to it
                    save(run, state, stepper, generators, better)
                    saved, owed = state.step, False
                before = clock.spent(state.step)
                if finished or pace.finished(before):
                    break

                rate = factor(*pace.position(before), params)
                set_learning_rate(stepper.optimizer, rate)
                stepped = stepper.step(feed, order.gradient_accumulation_steps, checkpoints, state, generators)
                bad_steps.note(state.step, order.epoch_of(state.step), stepped)
                state.step, generators = state.step + 1, generator_states()
                after = clock.spent(state.step)
                pace.stepped(before, after)

                if state.step % LOG_EVERY_STEPS == 0 or pace.finished(after):
                    bad_steps.settle()
                    row = {name: value.item() for name, value in ranks.means(stepped.losses).items()}
                    row |= {"lr": rate * params.lr, "grad_norm": stepped.norm.item(), **meter.read()}
                    row["checkpoint_wait"] = state.saving_seconds / max(after.seconds, 1e-9)
                    state.history.append({"step": state.step, "epoch": 1 + order.epoch_of(state.step - 1), **row})
                    tracker.log_metrics({f"train/{name}": value for name, value in row.items()}, state.step)
                    note = f"loss {row['loss']:.3f}  {row['clips_per_s']:.0f} clips/s"
                done = int(pace.budget.of(after))
                advance(done - shown, note)
                shown = done
        except StopTraining as ended:
            bad_steps.look()
            unsaved = ranks.highest(state.step > saved or not checkpoints.finish())[0]
            if unsaved:
                state.note(clock.spent(state.step), bad_steps.count, pace.state_dict())
                tracker.flush()
                save(run, state, stepper, generators, wait=True)
                ranks.highest(0)  # none says that all is saved before the first one has written it
            raise ended.reason or SystemExit(USER_ERROR) from None

    if ranks.first and state.best_step:
        run.model.load_state_dict(checkpoints.load_best(state.best_step))
    return state


def start(run: Run) -> tuple[TrainState, TrainStep]:
    """Model, optimiser and all that has a state, as the last checkpoint that belongs to today's inputs has them, or as
    a training begins.

    Raises:
        ClipBertError: the checkpoint is of a model with other parts, though its parameters are today's.
    """
    torch.manual_seed(run.params.seed + run.ranks.rank)
    stepper = TrainStep(run.task, run.model, run.params, run.device, run.ranks)
    newest = run.checkpoints.newest() if run.ranks.first else None
    newest = run.ranks.gather(newest)[0]
    if newest is None:
        if run.ranks.first:
            (run.checkpoints.folder / BAD_STEPS).unlink(missing_ok=True)
        return TrainState(microbatches=run.checkpoints.microbatches()), stepper
    state, parts, generators = run.checkpoints.read(newest)
    try:
        stepper.load_parts(parts)
    except (KeyError, ValueError, RuntimeError) as error:
        raise ClipBertError(
            f"{run.checkpoints.folder}: the checkpoint of step {newest} is of another version of the model ({error}). "
            "Go back to the code that wrote it, or remove the folder to start over."
        ) from error
    if run.ranks.rank < len(generators):
        restore_generators(generators[run.ranks.rank])
    else:
        torch.manual_seed(run.params.seed + run.ranks.rank + state.step * run.ranks.world)
    console.print(f"Resuming {run.task.name} at step {state.step} from {run.checkpoints.folder}", markup=False)
    return state, stepper


def save(
    run: Run,
    state: TrainState,
    stepper: TrainStep,
    generators: dict[str, Any],
    better: bool = False,
    wait: bool = False,
) -> None:
    """A checkpoint of all processes, written by the first; with `better`, today's weights as the best ones as well."""
    each = run.ranks.gather(generators)
    if not run.ranks.first:
        return
    best = None
    if better:
        with stepper.averaged():
            best = run.model.state_dict() if stepper.ema is None else snapshot(run.model.state_dict())
    run.checkpoints.save(state, stepper.parts(), each, best, wait)


def validate(run: Run, stepper: TrainStep, feed: SynchronizedBatchIterator) -> dict[str, float]:
    """The task's metrics on the validation examples, one uniform clip a video; the processes share the groups.

    Raises:
        Ended: a stop was asked for, or a group cannot be predicted, here or in another process.
    """
    groups, ranks, problem = run.task.validation(run.val), run.ranks, None
    found: list[tuple[int, pd.DataFrame]] = []
    run.model.eval()
    with stepper.meter.paused(), stepper.averaged(), stepper.precision.autocast():
        for first in range(0, len(groups), ranks.world):
            feed.agree(problem)
            if first + ranks.rank < len(groups):
                group, batch = groups[first + ranks.rank], run.params.evaluate.batch_size
                try:
                    items = predict(run.task, run.model, run.processor, run.cache, group, clips=1, batch_size=batch)
                    found.append((first + ranks.rank, items))
                except (ClipBertError, RuntimeError, MemoryError) as error:
                    problem = validation_problem(error, run)
        feed.agree(problem)
    run.model.train()
    shares = [share for shares in ranks.gather(found) for share in shares]
    return run.task.metrics(pd.concat([items for _, items in sorted(shares, key=lambda s: s[0])], ignore_index=True))


def validation_problem(error: Exception, run: Run) -> ClipBertError:
    """What to tell the user of an error in a validation; one that is not the user's is raised again."""
    if isinstance(error, ClipBertError):
        return error
    if not is_out_of_memory(error):
        raise error
    batch = run.params.evaluate.batch_size
    return ClipBertError(
        f"train {run.task.name}: out of memory in a validation ({first_line(error)}). Set evaluate.batch_size to "
        f"{max(1, batch // 2)} (now {batch}); the state is saved, the same command goes on."
    )


def export(run: Run, out: Path, card: str) -> None:
    """Write a model folder that `clipbert.model.load` reads: config.json, model.safetensors, tokenizer, the card."""
    transformers.utils.logging.disable_progress_bar()  # two lines of it for one small file
    run.model.to("cpu")
    with atomic_directory(out) as folder:
        run.model.save_pretrained(folder)
        run.processor.save_pretrained(folder)
        write_card(folder, card)
        sign_folder(folder)


class UsageTimer:
    """What a training has taken over all its resumes, on which all processes agree where that decides its end."""

    def __init__(self, seconds: float, meter: ThroughputMonitor, unit: str, ranks: DistributedContext) -> None:
        self.begin, self.meter, self.unit, self.ranks = time.monotonic() - seconds, meter, unit, ranks

    def spent(self, step: int) -> ResourceUsage:
        """At a step."""
        seconds, joules = time.monotonic() - self.begin, self.meter.joules()
        if self.unit == "s":
            seconds = self.ranks.highest(round(1000 * seconds))[0] / 1000
        if self.unit == "J":
            joules = sum(self.ranks.gather(joules or 0.0))
        return ResourceUsage(step, seconds, joules)
