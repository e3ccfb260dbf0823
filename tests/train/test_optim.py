"""Parameter groups and the learning rate over a run."""

import pytest
import torch
from torch import nn

from clipbert.train.optim import make_optimizer, set_learning_rate
from clipbert.train_params import TrainParams


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.clipbert = nn.ModuleDict({"vision": nn.Conv2d(3, 4, 3), "encoder": nn.Linear(4, 4)})
        self.norm = nn.LayerNorm(4)
        self.frozen = nn.Parameter(torch.zeros(3, 3), requires_grad=False)


def test_biases_and_norms_are_not_decayed_and_vision_has_its_own_rate() -> None:
    model = Small()
    optimizer = make_optimizer(model, TrainParams(lr=0.01, vision_lr=0.001, weight_decay=0.1))
    where = {
        id(parameter): (group["weight_decay"], group["peak_lr"])
        for group in optimizer.param_groups
        for parameter in group["params"]
    }
    assert where[id(model.clipbert["vision"].weight)] == (0.1, 0.001)
    assert where[id(model.clipbert["vision"].bias)] == (0.0, 0.001)
    assert where[id(model.clipbert["encoder"].weight)] == (0.1, 0.01)
    assert where[id(model.norm.weight)] == (0.0, 0.01)
    assert id(model.frozen) not in where


def test_the_rate_rises_to_its_peak_and_falls_to_the_end() -> None:
    optimizer = make_optimizer(Small(), TrainParams(lr=0.5, vision_lr=None))
    factors = [set_learning_rate(optimizer, step, steps=100, warmup_fraction=0.1) for step in range(100)]
    assert factors[:10] == pytest.approx([0.1 * (i + 1) for i in range(10)])
    assert max(factors) == factors[9] == factors[10] == 1.0
    assert factors[99] == pytest.approx(1 / 90)
    assert factors[10:] == sorted(factors[10:], reverse=True)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.5 / 90)


def test_a_run_of_one_step_trains() -> None:
    optimizer = make_optimizer(Small(), TrainParams())
    assert set_learning_rate(optimizer, 0, steps=1, warmup_fraction=0.5) == 1.0
