"""A step waits for no value of the device: loss and backward run on tensors that have none."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from test_loop import feed_of, make_run, params
from torch import Tensor, nn
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

from clipbert.model import ClipBertModel
from clipbert.tasks.base import Batch
from clipbert.train.loop import start


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


@pytest.mark.parametrize("task", ["retrieval", "open_qa", "multiple_choice", "image_qa", "captioning", "pretrain"])
def test_no_task_s_loss_asks_for_a_value(
    tiny_project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, task: str
) -> None:
    run = make_run(tiny_project, tmp_path, task, params())
    _, stepper = start(run)
    batch = next(feed_of(run, stepper))
    # What is decided by the kind of device, as a GPU has it.
    monkeypatch.setattr("clipbert.model.inputs.readable", lambda values: False)
    monkeypatch.setattr("clipbert.model.heads.readable", lambda values: False)
    monkeypatch.setattr(ClipBertModel, "packs", property(lambda self: False))
    mode = FakeTensorMode()
    fake = without_values(mode, run.model, batch)
    with mode:
        loss, _ = run.task.loss(run.model, fake)
        loss.backward()
    with pytest.raises(DataDependentOutputException):
        loss.item()


def test_the_fake_tells_of_a_value_that_is_asked_for() -> None:
    with FakeTensorMode(), pytest.raises(DataDependentOutputException):
        bool(torch.ones(2).any())
