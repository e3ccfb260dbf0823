"""One step: the gradient of a batch, in as little memory as there is, and what it does to the weights."""

import warnings
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from clipbert.config.schema import Params
from clipbert.console import console, errors
from clipbert.distributed.context import DistributedContext, convert_sync_batchnorm
from clipbert.errors import OUR_ERROR, ClipBertError, first_line
from clipbert.model.activation_checkpointing import set_activation_checkpointing, set_microbatches
from clipbert.tasks.base import Batch, Task
from clipbert.training.batch_iterator import StopTraining, SynchronizedBatchIterator
from clipbert.training.checkpoint import Checkpoints, TrainState, restore_generators
from clipbert.training.compiled import compiled
from clipbert.training.ema import ExponentialMovingAverage
from clipbert.training.memory import advice, is_out_of_memory, release_memory
from clipbert.training.monitor import ThroughputMonitor
from clipbert.training.optim import check_gradients, make_optimizer
from clipbert.training.precision import Precision


class TaskLoss(nn.Module):
    """A task's loss as the forward pass of one module: what DistributedDataParallel and torch.compile take."""

    def __init__(self, task: Task, model: nn.Module) -> None:
        super().__init__()
        self.task, self.model = task, model

    def forward(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of a batch and its named parts."""
        return self.task.loss(self.model, batch)


class BatchMetadata(NamedTuple):
    """What a batch was of; the batch itself goes, for a step may have thousands."""

    media: list[str]
    ids: list[str]  # of its texts


@dataclass(frozen=True)
class StepOutput:
    """What a step was, on the device: nobody waits for it before the log does."""

    losses: dict[str, Tensor]  # "loss" and its parts, means over the batches of this process
    norm: Tensor  # of the gradient, before it was clipped
    bad: Tensor  # whether the step was left out
    batches: list[BatchMetadata]


class BatchNormSnapshot:
    """The running statistics of batch norms that learn, put back where the step that changed them is left out."""

    def __init__(self, model: nn.Module) -> None:
        norms = [
            m for m in model.modules() if isinstance(m, nn.BatchNorm2d) and m.training and m.running_mean is not None
        ]
        self.buffers = [buffer for norm in norms for buffer in norm.buffers()]
        self.before = [buffer.clone() for buffer in self.buffers]

    @torch.no_grad()
    def put_back(self, where: Tensor | None = None) -> None:
        """All of them, or those of a step for which the flag on the device says so."""
        for buffer, before in zip(self.buffers, self.before, strict=True):
            buffer.copy_(before if where is None else torch.where(where, before, buffer))


def lay_out_as_weights(optimizer: torch.optim.Optimizer) -> None:
    """Give moments the memory format of their weights: a fused step reads both as they lie, and those of another number
    of processes may lie otherwise."""
    for weight, state in optimizer.state.items():
        for name, value in state.items():
            if isinstance(value, Tensor) and value.shape == weight.shape and value.stride() != weight.stride():
                state[name] = torch.empty_like(weight, dtype=value.dtype).copy_(value)


class TrainStep:
    """A model with all that makes a step of it: optimiser, precision, moving average, the other processes."""

    def __init__(self, task: Task, model: Any, params: Params, device: torch.device, ranks: DistributedContext) -> None:
        """
        Raises:
            ClipBertError: a parameter that does not fit this model or this device.
        """
        self.task, self.model, self.params, self.device, self.ranks = task, model, params, device, ranks
        train = params.train
        self.precision = Precision.choose(train.precision, device, model.config)
        self.scaler = self.precision.scaler
        model.to(device)
        model.label_smoothing = train.label_smoothing
        self.optimizer = make_optimizer(model, train)
        model.train()
        remarks = [self.precision.why]
        if train.activation_checkpointing:
            remarks.append(set_activation_checkpointing(model, True) or "Activations are computed again in backward.")
        if ranks.world > 1:
            convert_sync_batchnorm(model)
        self.ema = None if train.ema_decay is None else ExponentialMovingAverage(model, train.ema_decay)
        self.meter = ThroughputMonitor(model, device, self.precision.name)
        self.learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self.loss: Any = compiled(TaskLoss(task, model), train.compile)
        if ranks.world > 1:
            self.loss = self._shared(self.loss)
        self._cold, self._checked, self._rows, self._parts = ranks.world > 1, False, 1, 1
        for remark in remarks:
            console.print(f"{task.name}: {remark}", markup=False)

    def _shared(self, loss: nn.Module) -> nn.Module:
        """The loss whose gradients are averaged over the processes."""
        # A gradient has the layout in which convolutions compute it, and is shared as it lies.
        self.model.to(memory_format=torch.channels_last)
        with warnings.catch_warnings():
            # torch 2.13 wants forward_sync_buffers, which 2.11 does not know
            warnings.filterwarnings("ignore", message=".*broadcast_buffers.*")
            return DistributedDataParallel(
                loss,
                device_ids=[self.device] if self.device.type == "cuda" else None,
                static_graph=True,
                broadcast_buffers=False,  # all have the same ones: their batch norms share statistics
            )

    def parts(self) -> dict[str, Any]:
        """The states of all that has one, for a checkpoint."""
        states = {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict()}
        if self.ema is not None:
            states["ema"] = self.ema.state_dict()
        if self.scaler is not None:
            states["scaler"] = self.scaler.state_dict()
        return states

    def load_parts(self, states: dict[str, Any]) -> None:
        """Put back what `parts` gave."""
        self.model.load_state_dict(states["model"])
        self.optimizer.load_state_dict(states["optimizer"])
        lay_out_as_weights(self.optimizer)
        if self.ema is not None:
            self.ema.load_state_dict(states["ema"])
        if self.scaler is not None and "scaler" in states:
            self.scaler.load_state_dict(states["scaler"])

    def averaged(self) -> AbstractContextManager[None]:
        """Within it the model has the weights that are validated and kept: their moving average, where there is one."""
        return nullcontext() if self.ema is None else self.ema.swapped(self.model)

    def step(
        self,
        feed: SynchronizedBatchIterator,
        gradient_accumulation_steps: int,
        checkpoints: Checkpoints,
        state: TrainState,
        generators: dict[str, Any],
    ) -> StepOutput:
        """Update the weights along the gradient of the mean loss of the next `gradient_accumulation_steps` batches.

        Raises:
            ClipBertError: no room for the optimiser's moments.
            Ended: what the feed raises, or not even the smallest part of a batch fits into the memory; weights and
                statistics are what they were.

        Args:
            generators: their states before the step.
        """
        kept, position = BatchNormSnapshot(self.model), feed.batches.position
        while True:
            self._cut(state.microbatches)
            self.optimizer.zero_grad(set_to_none=True)
            try:
                if self._cold:
                    self._warm_up(feed.peek())
                    restore_generators(generators)
                    kept.put_back()
                losses, used = self._gradient(feed, gradient_accumulation_steps)
                break
            except StopTraining:
                kept.put_back()
                raise
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                kept.put_back()
                state.microbatches = self._more_parts(error, state.microbatches, checkpoints)
            # The failed try is forgotten, with all that its traceback held.
            release_memory(self.device)
            restore_generators(generators)
            feed.batches.start_at(position)
        if not self._checked:
            check_gradients(self.model)
            self._checked = True
        try:
            norm, bad = self._update(losses["loss"])
        except (RuntimeError, MemoryError) as error:
            if is_out_of_memory(error):  # the moments, in the first step
                raise self._too_little_memory("the optimiser's step", error) from None
            raise
        kept.put_back(bad)
        if self.ema is not None:
            self.ema.update(self.model)
        return StepOutput(losses, norm, bad, used)

    def _cut(self, parts: int) -> None:
        """Run the model in so many parts of a batch."""
        if parts != self._parts:
            remark, self._parts = set_microbatches(self.model, parts), parts
            console.print(f"{self.task.name}: a step in {parts} parts. {remark or ''}".rstrip(), markup=False)

    def _warm_up(self, batch: Batch) -> None:
        """A backward pass for nothing: DistributedDataParallel learns in the first one how to lay gradients out.

        Every other step then adds them up in the same order, of a training that starts as of one that goes on; and in
        a first one with a static graph it cannot leave a gradient unshared (`no_sync`).
        """
        self._rows = len(batch.input_ids)
        with self.precision.autocast():
            loss, _ = self.loss(batch)
        loss.backward()
        self.optimizer.zero_grad(set_to_none=True)
        self._cold = False

    def _gradient(
        self, feed: SynchronizedBatchIterator, gradient_accumulation_steps: int
    ) -> tuple[dict[str, Tensor], list[BatchMetadata]]:
        losses: dict[str, Tensor] = {}
        used = []
        for part in range(gradient_accumulation_steps):
            batch = next(feed)
            self._rows = len(batch.input_ids)
            alone = isinstance(self.loss, DistributedDataParallel) and part < gradient_accumulation_steps - 1
            with self.loss.no_sync() if alone else nullcontext(), self.meter.step(batch):
                with self.precision.autocast():
                    loss, parts = self.loss(batch)
                mean = loss / gradient_accumulation_steps
                (mean if self.scaler is None else self.scaler.scale(mean)).backward()
            for name, value in {"loss": loss, **parts}.items():
                losses[name] = losses.get(name, 0) + value.detach() / gradient_accumulation_steps
            used.append(BatchMetadata(list(batch.media), batch.ids))
        return losses, used

    def _update(self, loss: Tensor) -> tuple[Tensor, Tensor]:
        """Clip and step; on the device alone it is decided whether the step is left out."""
        if self.scaler is None:
            norm = nn.utils.clip_grad_norm_(self.learning, self.params.train.max_grad_norm)
            bad = ~torch.isfinite(norm) | self.ranks.any(~torch.isfinite(loss))
            self.optimizer.found_inf = bad.float()  # type: ignore[attr-defined]
            self.optimizer.step()
            return norm, bad
        # An overflow of the scaled gradient is the scaler's business; a loss that is no number is not.
        self.scaler.unscale_(self.optimizer)
        norm = nn.utils.clip_grad_norm_(self.learning, self.params.train.max_grad_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return norm, self.ranks.any(~torch.isfinite(loss))

    def _more_parts(self, error: BaseException, parts: int, checkpoints: Checkpoints) -> int:
        """How many parts to cut the step into now.

        Raises:
            Ended: none that would help, or none are wanted.
        """
        train = self.params.train
        if not train.auto_microbatch or parts >= self._rows:
            cut = f" in {parts} parts" if parts > 1 else ""
            reason = self._too_little_memory(f"a step of {train.batch_size} videos{cut}", error)
            # Of several processes the others wait in the middle of the step: there is no saving together.
            raise StopTraining(reason) if self.ranks.world == 1 else reason
        errors.print(
            f"train {self.task.name}: out of memory; the step is made in {2 * parts} parts from now on, with the same "
            "gradient.",
            markup=False,
        )
        if self.ranks.world > 1:
            checkpoints.keep_microbatches(2 * parts)
            # The others wait for this process in the middle of the step: all start again.
            raise SystemExit(OUR_ERROR) from error
        return 2 * parts

    def _too_little_memory(self, where: str, error: BaseException) -> ClipBertError:
        said = f"train {self.task.name}: out of memory in {where} ({first_line(error)})."
        return ClipBertError(f"{said}\n{advice(self.params.train, self.model.config)}")
