"""One step: what it leaves behind, whole, torn or resumed in another memory format."""

from pathlib import Path
from typing import Any

import pytest
import torch
from test_trainer import feed_of, make_run, params
from torch import Tensor, nn

from clipbert.tasks.base import Batch
from clipbert.tasks.open_qa import OpenQA
from clipbert.training.batch_iterator import StopTraining, SynchronizedBatchIterator
from clipbert.training.checkpoint import generator_states, snapshot
from clipbert.training.step import lay_out_as_weights
from clipbert.training.trainer import start


class Stopping(SynchronizedBatchIterator):
    """A stop is asked for once the first batch of a step has been given."""

    def __next__(self) -> Batch:
        batch = super().__next__()
        self.stop.signal = 15
        return batch


def test_a_stop_within_a_step_leaves_weights_and_statistics_as_they_were(tiny_project: Path, tmp_path: Path) -> None:
    run = make_run(tiny_project, tmp_path, "retrieval", params(batch_size=4, gradient_accumulation_steps=2))
    state, stepper = start(run)
    feed = feed_of(run, stepper)
    feed.__class__ = Stopping
    before = snapshot(stepper.parts())
    with pytest.raises(StopTraining):
        stepper.step(feed, 2, run.checkpoints, state, generator_states())
    for name, value in stepper.parts()["model"].items():
        assert torch.equal(value, before["model"][name]), name


def test_a_step_keeps_the_names_of_its_batches_and_not_their_frames(tiny_project: Path, tmp_path: Path) -> None:
    run = make_run(tiny_project, tmp_path, "retrieval", params(batch_size=4, gradient_accumulation_steps=2))
    state, stepper = start(run)
    stepped = stepper.step(feed_of(run, stepper), 2, run.checkpoints, state, generator_states())
    assert [len(named.media) for named in stepped.batches] == [4, 4]
    assert not any(isinstance(value, Tensor) for named in stepped.batches for value in named)


class Endless(OpenQA):
    """A loss without end whose gradient is that of one with an end."""

    def loss(self, model: Any, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        loss, parts = super().loss(model, batch)
        return loss + float("inf"), parts


def test_a_loss_without_end_is_left_out_though_its_gradient_is_finite(tiny_project: Path, tmp_path: Path) -> None:
    run = make_run(tiny_project, tmp_path, "open_qa", params())
    state, stepper = start(run)
    stepper.loss.task = Endless(run.task.params)
    before = snapshot(stepper.parts()["model"])
    stepped = stepper.step(feed_of(run, stepper), 1, run.checkpoints, state, generator_states())
    assert torch.isfinite(stepped.norm)
    assert bool(stepped.bad)
    assert all(torch.equal(value, before[name]) for name, value in stepper.parts()["model"].items())


@pytest.mark.parametrize("fused", [True, False])
def test_moments_of_another_memory_format_belong_to_the_same_weights(fused: bool) -> None:
    """As when one process goes on with what several have made, or the other way round."""

    def trained(written: torch.memory_format, read: torch.memory_format) -> Tensor:
        torch.manual_seed(0)
        layer, gradient = nn.Conv2d(3, 4, 5, bias=False), torch.randn(4, 3, 5, 5)
        layer.to(memory_format=written)  # type: ignore[call-overload]
        first = torch.optim.AdamW(layer.parameters(), lr=0.1, fused=fused)
        layer.weight.grad = gradient.contiguous(memory_format=written)
        first.step()
        layer.to(memory_format=read)  # type: ignore[call-overload]
        second = torch.optim.AdamW(layer.parameters(), lr=0.1, fused=fused)
        second.load_state_dict(snapshot(first.state_dict()))
        lay_out_as_weights(second)
        layer.weight.grad = gradient.square().contiguous(memory_format=read)
        second.step()
        return layer.weight.detach()

    plain, wide = torch.contiguous_format, torch.channels_last
    for written, read in ((plain, wide), (wide, plain), (wide, wide)):
        torch.testing.assert_close(trained(written, read), trained(plain, plain), rtol=1e-6, atol=1e-7)
