"""Training step: the gradient of the next batches, within the available memory, and the update of the weights."""

import gc
import math
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from clipbert.config.training import TrainParams
from clipbert.console import console, errors
from clipbert.distributed.context import DistributedContext, convert_sync_batchnorm
from clipbert.errors import OUR_ERROR, ClipBertError, first_line
from clipbert.model.activation_checkpointing import has_batch_norm, set_activation_checkpointing, set_microbatches
from clipbert.tasks.base import Task
from clipbert.tasks.batch import Batch
from clipbert.training.batch_iterator import StopTraining, SynchronizedBatchIterator
from clipbert.training.checkpoint import restore_rng_states
from clipbert.training.compiled import compile_module
from clipbert.training.ema import ExponentialMovingAverage
from clipbert.training.flops import FlopCounts
from clipbert.training.memory import advice, is_out_of_memory, release_memory
from clipbert.training.monitor import ThroughputMonitor
from clipbert.training.optim import check_gradients, make_optimizer, unfreeze_vision
from clipbert.training.phases import VISION
from clipbert.training.precision import Precision


class TaskLoss(nn.Module):
    """Loss of a task as the forward pass of a module, which DistributedDataParallel and torch.compile can wrap."""

    def __init__(self, task: Task, model: nn.Module) -> None:
        super().__init__()
        self.task, self.model = task, model

    def forward(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss of a batch and its named parts."""
        return self.task.objective.loss(self.model, batch)


class BatchMetadata(NamedTuple):
    """Names of the contents of a batch, kept after the batch itself is freed."""

    media: list[str]
    ids: list[str]  # of the texts


@dataclass(frozen=True)
class StepOutput:
    """Result of a training step; the tensors stay on the device, so that no step waits for the device."""

    losses: dict[str, Tensor]  # "loss" and its parts, means over the batches of this process
    grad_norm: Tensor  # before clipping
    skipped: Tensor  # whether the update was skipped because loss or gradient was non-finite
    batches: list[BatchMetadata]


class BatchNormSnapshot:
    """Copy of the running statistics of trainable batch norms, to undo the changes of a step that is skipped."""

    def __init__(self, model: nn.Module) -> None:
        norms = [
            m for m in model.modules() if isinstance(m, nn.BatchNorm2d) and m.training and m.running_mean is not None
        ]
        self.buffers = [buffer for norm in norms for buffer in norm.buffers()]
        self.before = [buffer.clone() for buffer in self.buffers]

    @torch.no_grad()
    def restore(self, condition: Tensor | None = None) -> None:
        """Restore the statistics; with `condition`, a flag on the device, only where it is true."""
        for buffer, before in zip(self.buffers, self.before, strict=True):
            buffer.copy_(before if condition is None else torch.where(condition, before, buffer))


def match_memory_format(optimizer: torch.optim.Optimizer) -> None:
    """Give the moments the memory format of their weights.

    A fused optimizer step requires equal formats; moments saved by another number of processes may have another one.
    """
    for weight, state in optimizer.state.items():
        for name, value in state.items():
            if isinstance(value, Tensor) and value.shape == weight.shape and value.stride() != weight.stride():
                state[name] = torch.empty_like(weight, dtype=value.dtype).copy_(value)


class TrainStep:
    """Training step of a model, with its optimizer, precision, moving average and data parallelism."""

    def __init__(
        self,
        task: Task,
        model: Any,
        params: TrainParams,
        device: torch.device,
        context: DistributedContext,
        save_microbatches: Callable[[int], None] | None = None,
    ) -> None:
        """
        Args:
            save_microbatches: stores the number of micro-batches for processes that are restarted with a larger one.

        Raises:
            ClipBertError: a parameter does not fit this model or this device.
        """
        self.task, self.model, self.params, self.device, self.context = task, model, params, device, context
        self.precision = Precision.choose(params.precision, device, model.config)
        self.scaler = self.precision.scaler
        model.to(device)
        model.label_smoothing = params.label_smoothing
        task.objective.prepare_model(model)
        self.optimizer = make_optimizer(model, params, task.objective.late_parameters)
        model.train()
        remarks = [self.precision.why]
        if params.activation_checkpointing:
            remarks.append(set_activation_checkpointing(model, True) or "Activations are recomputed in backward.")
        if context.world > 1:
            convert_sync_batchnorm(model)
        self.ema = None if params.ema_decay is None else ExponentialMovingAverage(model, params.ema_decay)
        self.monitor = ThroughputMonitor(model, device, self.precision.name)
        self.trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self.loss: Any = compile_module(TaskLoss(task, model), params.compile)
        if context.world > 1:
            self.loss = self._data_parallel(self.loss)
        self.microbatches, self._least_microbatches = 1, self._wanted_microbatches()
        self._save_microbatches = save_microbatches
        self._needs_warm_up, self._gradients_checked, self._rows = context.world > 1, False, 1
        for remark in remarks:
            console.print(f"{task.name}: {remark}")

    def _data_parallel(self, loss: nn.Module) -> nn.Module:
        """Return the loss with gradients that are averaged over the processes."""
        # Gradients have the layout in which convolutions compute them, and are reduced in that layout.
        self.model.to(memory_format=torch.channels_last)
        with warnings.catch_warnings():
            # torch 2.13 asks for forward_sync_buffers, which torch 2.11 does not have
            warnings.filterwarnings("ignore", message=".*broadcast_buffers.*")
            return DistributedDataParallel(
                loss,
                device_ids=[self.device] if self.device.type == "cuda" else None,
                static_graph=True,
                broadcast_buffers=False,  # they are equal, because the batch norms share their statistics
            )

    def begin_phase(self, phase: str) -> None:
        """Train the part of the model of a phase too, from the next step on."""
        if phase == VISION:
            unfreeze_vision(self.model)
        else:
            self.task.objective.train_late_part(self.model)
        self.trainable = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        if self.ema is not None:
            self.ema.add_parameters(self.model)
        self.monitor.counts, self._gradients_checked = FlopCounts(), False
        if isinstance(self.loss, DistributedDataParallel):
            convert_sync_batchnorm(self.model)
            self.loss = self.loss.module
            gc.collect()  # the hooks of the old wrapper end with it
            self.loss, self._needs_warm_up = self._data_parallel(self.loss), True

    def state_dict(self) -> dict[str, Any]:
        """Return the states of model, optimizer, moving average and gradient scaler."""
        states = {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict()}
        if self.ema is not None:
            states["ema"] = self.ema.state_dict()
        if self.scaler is not None:
            states["scaler"] = self.scaler.state_dict()
        return states

    def load_state_dict(self, states: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self.model.load_state_dict(states["model"])
        self.optimizer.load_state_dict(states["optimizer"])
        match_memory_format(self.optimizer)
        if self.ema is not None:
            self.ema.load_state_dict(states["ema"])
        if self.scaler is not None and "scaler" in states:
            self.scaler.load_state_dict(states["scaler"])

    def averaged(self) -> AbstractContextManager[None]:
        """Give the model its averaged weights, if there is a moving average, for the duration of the context."""
        return nullcontext() if self.ema is None else self.ema.swapped(self.model)

    def _wanted_microbatches(self) -> int:
        """Return the number of micro-batches for `train.microbatch_size`.

        Raises:
            ClipBertError: the backbone has batch norms that need the whole batch.
        """
        size, params = self.params.microbatch_size, self.params
        if size is None:
            return 1
        trained = not params.freeze_vision or params.unfreeze_at is not None
        if trained and not self.model.config.freeze_batch_norm and has_batch_norm(self.model.clipbert.vision):
            raise ClipBertError(
                f"train.microbatch_size is {size}, but the batch norms of this backbone are trained and need the "
                "statistics of the whole batch. Set train.freeze_vision to true without train.unfreeze_at, or "
                "train.microbatch_size to null."
            )
        return math.ceil(math.ceil(params.batch_size / self.context.world) / size)

    def set_microbatches(self, count: int) -> None:
        """Split the batches of each following step into `count` micro-batches, or as `train.microbatch_size` wants."""
        count = max(count, self._least_microbatches)
        if count != self.microbatches:
            remark, self.microbatches = set_microbatches(self.model, count), count
            console.print(f"{self.task.name}: a step in {count} parts. {remark or ''}".rstrip())

    def run(
        self, batches: SynchronizedBatchIterator, gradient_accumulation_steps: int, rng: dict[str, Any]
    ) -> StepOutput:
        """Update the weights with the mean gradient of the next `gradient_accumulation_steps` batches.

        When memory runs out, the same step is repeated in more micro-batches.

        Args:
            rng: states of the random number generators before the step, from which it is repeated.

        Raises:
            ClipBertError: the optimizer's moments do not fit into memory.
            StopTraining: raised by `batches`, or not even one row fits into memory; the weights and statistics are
                those before the step.
        """
        statistics, position = BatchNormSnapshot(self.model), batches.batches.position
        while True:
            self.optimizer.zero_grad(set_to_none=True)
            try:
                if self._needs_warm_up:
                    self._warm_up(batches.peek())
                    restore_rng_states(rng)
                    statistics.restore()
                losses, used = self._accumulate_gradient(batches, gradient_accumulation_steps)
                break
            except StopTraining:
                statistics.restore()
                raise
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                statistics.restore()
                self._double_microbatches(error)
            # The failed attempt is released here, together with everything that its traceback refers to.
            release_memory(self.device)
            restore_rng_states(rng)
            batches.batches.start_at(position)
        if not self._gradients_checked:
            check_gradients(self.model)
            self._gradients_checked = True
        try:
            grad_norm, skipped = self._update(losses["loss"])
        except (RuntimeError, MemoryError) as error:
            if is_out_of_memory(error):  # the first step allocates the moments
                raise self._out_of_memory("the optimizer step", error) from None
            raise
        statistics.restore(skipped)
        if self.ema is not None:
            self.ema.update(self.model)
        return StepOutput(losses, grad_norm, skipped, used)

    def _warm_up(self, batch: Batch) -> None:
        """Run one backward pass without an update.

        In the first backward pass DistributedDataParallel learns the layout of the gradients. After it, every step sums
        them in the same order, in a training that starts and in one that resumes. In a first pass with a static graph
        `no_sync` would not work either.
        """
        self._rows = len(batch.input_ids)
        with self.precision.autocast():
            loss, _ = self.loss(batch)
        loss.backward()
        self.optimizer.zero_grad(set_to_none=True)
        self._needs_warm_up = False

    def _accumulate_gradient(
        self, batches: SynchronizedBatchIterator, gradient_accumulation_steps: int
    ) -> tuple[dict[str, Tensor], list[BatchMetadata]]:
        losses: dict[str, Tensor] = {}
        used = []
        for index in range(gradient_accumulation_steps):
            batch = next(batches)
            self._rows = len(batch.input_ids)
            # Gradients are averaged over the processes with the last batch alone.
            local = isinstance(self.loss, DistributedDataParallel) and index < gradient_accumulation_steps - 1
            with self.loss.no_sync() if local else nullcontext(), self.monitor.step(batch):
                with self.precision.autocast():
                    loss, parts = self.loss(batch)
                mean = loss / gradient_accumulation_steps
                (mean if self.scaler is None else self.scaler.scale(mean)).backward()
            for name, value in {"loss": loss, **parts}.items():
                losses[name] = losses.get(name, 0) + value.detach() / gradient_accumulation_steps
            used.append(BatchMetadata(list(batch.media), batch.ids))
        return losses, used

    def _update(self, loss: Tensor) -> tuple[Tensor, Tensor]:
        """Clip the gradient and update the weights; the device decides by itself whether the update is skipped."""
        if self.scaler is None:
            grad_norm = nn.utils.clip_grad_norm_(self.trainable, self.params.max_grad_norm)
            skipped = ~torch.isfinite(grad_norm) | self.context.any(~torch.isfinite(loss))
            self.optimizer.found_inf = skipped.float()  # type: ignore[attr-defined]
            self.optimizer.step()
            return grad_norm, skipped
        # The scaler handles overflows of the scaled gradient; a non-finite loss is an error of its own.
        self.scaler.unscale_(self.optimizer)
        grad_norm = nn.utils.clip_grad_norm_(self.trainable, self.params.max_grad_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return grad_norm, self.context.any(~torch.isfinite(loss))

    def _double_microbatches(self, error: BaseException) -> None:
        """Split the following steps into twice as many micro-batches.

        Raises:
            StopTraining: more micro-batches would not help, or are switched off.
            SystemExit: in a training of several processes, which then restart with the new number.
        """
        if not self.params.auto_microbatch or self.microbatches >= self._rows:
            parts = f" in {self.microbatches} parts" if self.microbatches > 1 else ""
            reason = self._out_of_memory(f"a step of {self.params.batch_size} videos{parts}", error)
            # With several processes, the others wait inside the step, so no common state can be saved.
            raise StopTraining(reason) if self.context.world == 1 else reason
        count = 2 * self.microbatches
        errors.print(
            f"train {self.task.name}: out of memory; from now on each step is made in {count} parts, with the same "
            "gradient."
        )
        if self.context.world > 1:
            if self._save_microbatches is not None:
                self._save_microbatches(count)
            # The other processes wait inside the step, so all of them restart.
            raise SystemExit(OUR_ERROR) from error
        self.set_microbatches(count)

    def _out_of_memory(self, where: str, error: BaseException) -> ClipBertError:
        message = f"train {self.task.name}: out of memory in {where} ({first_line(error)})."
        return ClipBertError(f"{message}\n{advice(self.params, self.model.config)}")
