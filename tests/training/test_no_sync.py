"""A training step never waits for a value of the device: loss and backward run on tensors without values."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from small_trainings import batches_of, make_trainer, params
from torch import Tensor, nn
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from clipbert.config.tasks import task_names
from clipbert.tasks.batch import Batch
from clipbert.training.trainer import Trainer


def without_values(mode: FakeTensorMode, model: nn.Module, batch: Batch) -> Batch:
    """Turn a model's tensors, and a batch's, into ones of shape and type alone; asking for a value raises."""
    for module in model.modules():
        for name, value in module._parameters.items():
            if value is not None:
                fake = mode.from_tensor(value.detach())
                module._parameters[name] = nn.Parameter(fake, requires_grad=value.requires_grad)
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = mode.from_tensor(buffer)
    tensors: dict[str, Any] = {n: mode.from_tensor(v) for n, v in vars(batch).items() if isinstance(v, Tensor)}
    return replace(batch, **tensors)


def trainer_and_batch(project: Path, folder: Path, task: str) -> tuple[Trainer, Batch]:
    """A training of this task, and the batch of its first step."""
    trainer = make_trainer(project, folder, task, params())
    trainer.resume()
    return trainer, next(batches_of(trainer))


@pytest.fixture
def like_a_gpu(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Return a function that makes decisions by device type as on a GPU."""

    def decide() -> None:
        for room in ("model.inputs", "model.heads", "model.modeling", "tasks.batch"):
            monkeypatch.setattr(f"clipbert.{room}.can_read_values", lambda values: False)

    return decide


@pytest.mark.parametrize("task", task_names())
def test_no_task_s_loss_asks_for_a_value(
    tiny_project: Path, tmp_path: Path, like_a_gpu: Callable[[], None], task: str
) -> None:
    trainer, batch = trainer_and_batch(tiny_project, tmp_path, task)
    like_a_gpu()
    mode = FakeTensorMode()
    fake = without_values(mode, trainer.model, batch)
    with mode:
        loss, _ = trainer.task.objective.loss(trainer.model, fake)
        loss.backward()
    with pytest.raises(DataDependentOutputException):
        loss.item()


class NoWaits(TorchDispatchMode):
    """Refuses what waits for a GPU: a value, or how many there are of something. Libraries spare a fake tensor both."""

    WAIT = ("_local_scalar_dense", "nonzero", "masked_select", "masked_scatter_backward", "is_nonzero")

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        assert func._schema.name.removeprefix("aten::") not in self.WAIT, func
        if func._schema.name in ("aten::index", "aten::index_put", "aten::index_put_"):
            assert not any(some is not None and some.dtype == torch.bool for some in args[1]), func
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("task", task_names())
def test_nor_for_how_many_there_are_of_something(
    tiny_project: Path, tmp_path: Path, like_a_gpu: Callable[[], None], task: str
) -> None:
    trainer, batch = trainer_and_batch(tiny_project, tmp_path, task)
    expected, _ = trainer.task.objective.loss(trainer.model.eval(), batch)
    like_a_gpu()
    with NoWaits():
        loss, _ = trainer.task.objective.loss(trainer.model, batch)
        loss.backward()
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-6)
    with NoWaits(), pytest.raises(AssertionError, match="_local_scalar_dense"):
        loss.item()


def test_the_fake_tells_of_a_value_that_is_asked_for() -> None:
    with FakeTensorMode(), pytest.raises(DataDependentOutputException):
        bool(torch.ones(2).any())
