"""Training loop, the same for every task: train, validate, save, log; resumes bit for bit from its checkpoints."""

import math
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import pandas as pd
import torch

from clipbert.config.training import TrainParams
from clipbert.console import console, progress
from clipbert.distributed.context import DistributedContext
from clipbert.errors import USER_ERROR, ClipBertError, first_line
from clipbert.feature_cache import FeatureCache
from clipbert.frame_cache import FrameCache
from clipbert.tasks.base import Task
from clipbert.tasks.batch import Example
from clipbert.tasks.predict import predict
from clipbert.training.batch_iterator import StopTraining, SynchronizedBatchIterator
from clipbert.training.budget import UsageTimer, make_budget_tracker
from clipbert.training.checkpoint import Checkpoints, TrainState, restore_rng_states, rng_states, snapshot
from clipbert.training.data import Batches, DistributedBatchSampler, TrainingSamples
from clipbert.training.early_stopping import out_of_patience
from clipbert.training.fault_tolerance import BAD_STEPS, NonFiniteGuard
from clipbert.training.length import TrainingLength, training_length
from clipbert.training.memory import freed_memory_kept, is_out_of_memory
from clipbert.training.optim import set_learning_rate
from clipbert.training.phases import VISION, lr_factors, phase_starts, phases_to_begin
from clipbert.training.step import StepOutput, TrainStep
from clipbert.training.stopping import StopRequest, stop_requests
from clipbert.training.tracker import Tracker

LOG_EVERY_STEPS = 10


@dataclass
class Trainer:
    """Training of a model on a task.

    Call `resume` to restore the last checkpoint, then `train`. In a training of several processes each has a Trainer.

    Attributes:
        cache: the frames.
        features: of the frozen backbone, which are read instead of the frames as long as it is frozen; None: frames.
        train_examples: of the training split, all of them in every process.
        eval_batch_size: text-video pairs per forward pass of a validation.
        state: position and curves, set by `resume`.
        step: model, optimizer and gradient of a step, set by `resume`.
    """

    task: Task
    model: Any
    processor: Any
    cache: FrameCache
    train_examples: list[Example]
    val_examples: list[Example]
    params: TrainParams
    seed: int
    eval_batch_size: int
    checkpoints: Checkpoints
    device: torch.device
    context: DistributedContext = DistributedContext()  # noqa: RUF009
    features: FeatureCache | None = None
    state: TrainState = field(init=False)
    step: TrainStep = field(init=False)

    @cached_property
    def length(self) -> TrainingLength:
        """Number of epochs and steps of a training without `train.budget`."""
        params, epochs = self.params, int(self.task.params.epochs)
        return training_length(
            len(self.train_examples), params.batch_size, params.gradient_accumulation_steps, epochs, params.min_steps
        )

    @property
    def limit(self) -> str | None:
        """`train.budget`; None without one, and for a task with 0 epochs, which is not trained."""
        return self.params.budget if self.task.params.epochs else None

    @property
    def inputs(self) -> FrameCache:
        """The cache that training and validation read."""
        frozen = self.features is not None and VISION not in self.state.phases
        return self.features if frozen and self.features is not None else self.cache

    def make_sampler(self, step: int = 0) -> DistributedBatchSampler:
        """Return the sampler of the batches from `step` on; it is endless where a budget ends the training."""
        sampler = DistributedBatchSampler(
            len(self.train_examples),
            self.params.batch_size,
            None if self.limit else self.length.epochs,
            self.seed,
            gradient_accumulation_steps=self.params.gradient_accumulation_steps,
            rank=self.context.rank,
            world=self.context.world,
        )
        sampler.start = step * sampler.gradient_accumulation_steps
        return sampler

    def resume(self) -> None:
        """Restore the newest checkpoint that has today's parameters and data; without one, start at step 0.

        Raises:
            ClipBertError: the checkpoint does not fit the model, although the parameters are equal.
        """
        context, checkpoints = self.context, self.checkpoints
        torch.manual_seed(self.seed + context.rank)
        self.step = TrainStep(self.task, self.model, self.params, self.device, context, checkpoints.save_microbatches)
        newest = context.gather(checkpoints.newest() if context.first else None)[0]
        if newest is None:
            if context.first:
                (checkpoints.folder / BAD_STEPS).unlink(missing_ok=True)
            self.state = TrainState(microbatches=checkpoints.microbatches())
        else:
            self.state, step_state, rng = checkpoints.read(newest)
            for phase in self.state.phases:
                self.step.begin_phase(phase)
            try:
                self.step.load_state_dict(step_state)
            except (KeyError, ValueError, RuntimeError) as error:
                raise ClipBertError(
                    f"{checkpoints.folder}: the checkpoint of step {newest} belongs to another version of the model "
                    f"({error}). Return to the code that wrote it, or remove the folder to start over."
                ) from error
            if context.rank < len(rng):
                restore_rng_states(rng[context.rank])
            else:
                torch.manual_seed(self.seed + context.rank + self.state.step * context.world)
            console.print(f"Resuming {self.task.name} at step {self.state.step} from {checkpoints.folder}")
        self.step.set_microbatches(self.state.microbatches)

    def train(self, tracker: Tracker) -> TrainState:
        """Train to the last epoch or the end of the budget; the model then has the weights of the best epoch.

        Raises:
            ClipBertError: too many steps were skipped, a batch cannot be loaded, or memory ran out. The state is saved.
            Stopped: after SIGTERM or Ctrl-C. The state is saved.
        """
        self._prepare(tracker)
        total, used = int(self.budget.budget.amount), int(self.budget.used(self.usage))
        bar = progress(f"train {self.task.name}", total, done=used)
        with freed_memory_kept(self.device), stop_requests() as stop, bar as advance:
            self.batches = self._make_batches(stop)
            try:
                while True:
                    # validate at the end of an epoch and at the end of the training
                    if self.should_validate():
                        self.validate()

                    # save every few steps and after each validation
                    if self.should_save():
                        self.save()

                    if self.finished():
                        break

                    # train a part too whose training begins here: the backbone, a cross-encoder
                    for phase in self.phases_to_begin():
                        self.begin_phase(phase)

                    # forward, backward, update
                    self.train_step()

                    # metrics, averaged over the processes
                    if self.should_log():
                        self.log()

                    before, used = used, int(self.budget.used(self.usage))
                    advance(used - before, self._note)
            except StopTraining as stop_training:
                self._save_before_stop()
                raise stop_training.reason or SystemExit(USER_ERROR) from None

        if self.context.first and self.state.best_step:
            self.model.load_state_dict(self.checkpoints.load_best(self.state.best_step))
        return self.state

    def _prepare(self, tracker: Tracker) -> None:
        """Create what the loop needs besides the restored state."""
        state, monitor = self.state, self.step.monitor
        self.tracker, state.run_id = tracker, tracker.run_id
        self.sampler = self.make_sampler(state.step)
        self.epochs_per_validation = 1 if self.limit else self.length.epochs_per_validation
        self.steps_per_validation = self.sampler.steps_per_epoch * self.epochs_per_validation
        self.budget = make_budget_tracker(self.limit, self.sampler.steps or 0, monitor, state.budget)
        self.guard = NonFiniteGuard(
            self.task.name, self.checkpoints.folder, self.params.max_bad_steps, self.context, state.bad_steps
        )
        monitor.load_state_dict(state.monitor_state(self.context))
        self.timer = UsageTimer(state.seconds, monitor, self.budget.budget.unit, self.context)
        self.usage = self.timer.measure(state.step)
        self.rng = rng_states()  # after the last step; validations and checkpoints do not change it
        self._saved = (state.step, state.validated_step)
        self._note = ""

    def _make_batches(self, stop: StopRequest) -> SynchronizedBatchIterator:
        samples = TrainingSamples(
            self.inputs, self.train_examples, self.task, self.model.config, self.seed, self.params.augment
        )
        batches = Batches(samples, self.sampler, self.processor, self.params.num_workers, self.device)

        def stop_reason() -> BaseException:
            return stop.exception(self.task.name, self.state.step)

        return SynchronizedBatchIterator(
            batches, self.context, stop, lambda: self.checkpoints.busy, stop_reason, self.step.monitor
        )

    def finished(self) -> bool:
        """Return whether no step follows: the epochs or the budget are used up, or early stopping applies."""
        return self.budget.finished(self.usage) or self._out_of_patience()

    def _out_of_patience(self) -> bool:
        """Return whether early stopping applies, which it does only after the last phase has begun.

        Where `train.min_steps` raises the number of epochs, the patience is raised by the same factor.
        """
        begun = self.state.phases
        if self.params.patience is None or self.phase_starts.keys() - begun.keys():
            return False
        start = math.ceil(max((step for step, _ in begun.values()), default=0) / self.sampler.steps_per_epoch)
        patience, metric = self.params.patience * self.epochs_per_validation, self.task.evaluator.main_metric
        return out_of_patience(self.state.validation, metric, patience, start)

    @cached_property
    def phase_starts(self) -> dict[str, float]:
        """The fraction of the training at which each phase begins."""
        return phase_starts(self.params.unfreeze_at, self.task.objective.late_start)

    def phases_to_begin(self) -> list[str]:
        """Return the phases that begin with the next step."""
        return phases_to_begin(self.phase_starts, self.state.phases, *self.budget.schedule_position(self.usage))

    def begin_phase(self, phase: str) -> None:
        """Train the part of the model of a phase too, from the next step on; the backbone is trained from pixels."""
        done, _ = self.budget.schedule_position(self.usage)
        self.state.phases[phase] = (self.state.step, done)
        self.step.begin_phase(phase)
        self.batches.batches.read_from(self.inputs)
        self.budget.forget_costs()
        part = "backbone" if phase == VISION else self.task.objective.late_part
        pixels = ", from pixels" if phase == VISION else ""
        console.print(f"{self.task.name}: the {part} is trained too from step {self.state.step} on{pixels}")

    def should_validate(self) -> bool:
        """Return whether a validation follows the current step and has not been made yet.

        A training without steps validates the initial weights.
        """
        if self.state.step == self.state.validated_step and (self.state.validation or self.sampler.steps != 0):
            return False
        end_of_epoch = self.state.step % self.steps_per_validation == 0
        return self.finished() or self.budget.should_validate(self.usage, end_of_epoch)

    def validate(self) -> None:
        """Measure the validation metrics and note whether they are the best so far.

        Raises:
            StopTraining: see `validation_metrics`.
        """
        before = self.timer.measure(self.state.step)
        metrics = self.validation_metrics()
        self.usage = self.timer.measure(self.state.step)
        self.budget.record_validation(before, self.usage)
        epoch = math.ceil(self.state.step / self.sampler.steps_per_epoch)
        self.state.update_best(metrics, self.task.evaluator.main_metric, epoch)
        self.tracker.log_metrics({f"val/{name}": value for name, value in metrics.items()}, self.state.step)

    def validation_metrics(self) -> dict[str, float]:
        """Return the task's metrics on the validation examples, with one uniform clip per video.

        Features cost nothing, so with a feature cache as many clips are taken as in evaluation. It stays that number
        when the backbone is trained, so that the validations before and after can be compared.

        Each process predicts a part of the example groups.

        Raises:
            StopTraining: a stop was requested, or a group cannot be predicted, in this process or another.
        """
        clips = 1 if self.features is None else self.processor.clips
        groups, context = self.task.evaluator.validation_groups(self.val_examples), self.context
        predictions: list[tuple[int, pd.DataFrame]] = []
        problem = None
        self.model.eval()
        with self.step.monitor.paused(), self.step.averaged(), self.step.precision.autocast():
            for first in range(0, len(groups), context.world):
                self.batches.synchronize(problem)
                index = first + context.rank
                if index < len(groups):
                    try:
                        items = predict(
                            self.task.evaluator,
                            self.model,
                            self.processor,
                            self.inputs,
                            groups[index],
                            clips=clips,
                            batch_size=self.eval_batch_size,
                        )
                        predictions.append((index, items))
                    except (ClipBertError, RuntimeError, MemoryError) as error:
                        problem = self._validation_problem(error)
            self.batches.synchronize(problem)
        self.model.train()
        gathered = [prediction for share in context.gather(predictions) for prediction in share]
        gathered.sort(key=lambda prediction: prediction[0])
        return self.task.evaluator.metrics(pd.concat([items for _, items in gathered], ignore_index=True))

    def _validation_problem(self, error: Exception) -> ClipBertError:
        """Return the message for a user's error or a lack of memory in a validation; reraise other errors."""
        if isinstance(error, ClipBertError):
            return error
        if not is_out_of_memory(error):
            raise error
        size = self.eval_batch_size
        return ClipBertError(
            f"train {self.task.name}: out of memory in a validation ({first_line(error)}). Set evaluate.batch_size to "
            f"{max(1, size // 2)} (now {size}) and rerun the command; it resumes from the saved state."
        )

    def should_save(self) -> bool:
        """Return whether a checkpoint is due.

        While the previous one is still being written it is postponed, except for a best epoch and the end.
        """
        saved_step, saved_validation = self._saved
        every = self.params.checkpoint_every_steps
        due = self.state.validated_step > saved_validation or self.state.step // every > saved_step // every
        return due and (self._is_best() or self.finished() or not self.batches.checkpoint_busy)

    def save(self) -> None:
        """Write a checkpoint in the background.

        Raises:
            StopTraining: too many steps were skipped.
        """
        self._write_checkpoint(bad_steps=self.guard.flush())

    def _write_checkpoint(self, bad_steps: int, wait: bool = False) -> None:
        state = self.state
        state.update_usage(self.timer.measure(state.step), self.step.monitor.flops * self.context.world)
        state.bad_steps, state.microbatches, state.budget = bad_steps, self.step.microbatches, self.budget.state_dict()
        self.tracker.flush()  # first, so that no checkpoint is ahead of the recorded metrics
        rng = self.context.gather(self.rng)
        if self.context.first:
            best = None
            if self._is_best():
                with self.step.averaged():
                    best = self.model.state_dict() if self.step.ema is None else snapshot(self.model.state_dict())
            self.checkpoints.save(state, self.step.state_dict(), rng, best, wait)
        self._saved = (state.step, state.validated_step)

    def _is_best(self) -> bool:
        """Return whether the current weights are those of the best validation."""
        return self.state.step > 0 and self.state.step == self.state.best_step

    def _save_before_stop(self) -> None:
        """Save the state of the last completed step, unless it is on the disk already."""
        self.guard.count_recorded()
        unsaved = self._saved != (self.state.step, self.state.validated_step) or not self.checkpoints.finish()
        if self.context.all_reduce_max(unsaved)[0]:
            self._write_checkpoint(bad_steps=self.guard.count, wait=True)
            self.context.all_reduce_max(0)  # no process reports a saved state before the first one has written it

    def train_step(self) -> None:
        """Update the weights with the next batches."""
        state = self.state
        before = self.timer.measure(state.step)
        done, total = self.budget.schedule_position(before)
        factors = lr_factors(state.phases, done, total, self.params)
        set_learning_rate(self.step.optimizer, factors)
        self.lr = factors[""] * self.params.lr
        self.output: StepOutput = self.step.run(self.batches, self.sampler.gradient_accumulation_steps, self.rng)
        self.guard.record(state.step, self.sampler.epoch_of(state.step), self.output)
        state.step += 1
        self.rng = rng_states()
        self.usage = self.timer.measure(state.step)
        self.budget.record_step(before, self.usage)

    def should_log(self) -> bool:
        """Return whether the step is logged: every tenth, and the last one."""
        return self.state.step % LOG_EVERY_STEPS == 0 or self.budget.finished(self.usage)

    def log(self) -> None:
        """Record the metrics of the step and the throughput since the last log.

        Raises:
            StopTraining: too many steps were skipped.
        """
        self.guard.flush()
        state, output = self.state, self.output
        row = {name: value.item() for name, value in self.context.means(output.losses).items()}
        row |= {"lr": self.lr, "grad_norm": output.grad_norm.item(), **self.step.monitor.read()}
        row["checkpoint_wait"] = state.saving_seconds / max(self.usage.seconds, 1e-9)
        state.history.append({"step": state.step, "epoch": 1 + self.sampler.epoch_of(state.step - 1), **row})
        self.tracker.log_metrics({f"train/{name}": value for name, value in row.items()}, state.step)
        self._note = f"loss {row['loss']:.3f}  {row['clips_per_s']:.0f} clips/s"
