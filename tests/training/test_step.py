"""Training steps that complete, are interrupted, or resume in another memory format."""

from pathlib import Path
from typing import Any

import pytest
import torch
from small_trainings import batches_of, make_trainer, params
from torch import Tensor, nn

from clipbert.tasks.batch import Batch
from clipbert.tasks.open_qa import OpenQA, OpenQAObjective
from clipbert.training.batch_iterator import StopTraining, SynchronizedBatchIterator
from clipbert.training.checkpoint import rng_states, snapshot
from clipbert.training.step import match_memory_format


class Stopping(SynchronizedBatchIterator):
    """Batch iterator that requests a stop after the first batch of a step."""

    def __next__(self) -> Batch:
        batch = super().__next__()
        self.stop.signal = 15
        return batch


def test_a_stop_within_a_step_leaves_weights_and_statistics_as_they_were(tiny_project: Path, tmp_path: Path) -> None:
    trainer = make_trainer(tiny_project, tmp_path, "retrieval", params(batch_size=4, gradient_accumulation_steps=2))
    trainer.resume()
    batches = batches_of(trainer)
    batches.__class__ = Stopping
    before = snapshot(trainer.step.state_dict())
    with pytest.raises(StopTraining):
        trainer.step.run(batches, 2, rng_states())
    for name, value in trainer.step.state_dict()["model"].items():
        assert torch.equal(value, before["model"][name]), name


def test_a_step_keeps_the_names_of_its_batches_and_not_their_frames(tiny_project: Path, tmp_path: Path) -> None:
    trainer = make_trainer(tiny_project, tmp_path, "retrieval", params(batch_size=4, gradient_accumulation_steps=2))
    trainer.resume()
    output = trainer.step.run(batches_of(trainer), 2, rng_states())
    assert [len(named.media) for named in output.batches] == [4, 4]
    assert not any(isinstance(value, Tensor) for named in output.batches for value in named)


class InfiniteObjective(OpenQAObjective):
    """Infinite loss that has a finite gradient."""

    def loss(self, model: Any, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        loss, parts = super().loss(model, batch)
        return loss + float("inf"), parts


class Infinite(OpenQA):
    """Task with an infinite loss that has a finite gradient."""

    objective_class = InfiniteObjective


def test_a_step_with_an_infinite_loss_and_a_finite_gradient_is_skipped(tiny_project: Path, tmp_path: Path) -> None:
    trainer = make_trainer(tiny_project, tmp_path, "open_qa", params())
    trainer.resume()
    trainer.step.loss.task = Infinite(trainer.task.params)
    before = snapshot(trainer.step.state_dict()["model"])
    output = trainer.step.run(batches_of(trainer), 1, rng_states())
    assert torch.isfinite(output.grad_norm)
    assert bool(output.skipped)
    assert all(torch.equal(value, before[name]) for name, value in trainer.step.state_dict()["model"].items())


@pytest.mark.parametrize("fused", [True, False])
def test_moments_of_another_memory_format_belong_to_the_same_weights(fused: bool) -> None:
    """As when one process resumes a training of several processes, or the reverse."""

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
        match_memory_format(second)
        layer.weight.grad = gradient.square().contiguous(memory_format=read)
        second.step()
        return layer.weight.detach()

    plain, wide = torch.contiguous_format, torch.channels_last
    for written, read in ((plain, wide), (wide, plain), (wide, wide)):
        torch.testing.assert_close(trained(written, read), trained(plain, plain), rtol=1e-6, atol=1e-7)
