"""The moving average of the weights: its arithmetic, its place in validation, its resume."""

from pathlib import Path

import pytest
import torch
from torch import nn

from clipbert.training.ema import ExponentialMovingAverage


def network() -> nn.Sequential:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 1))
    model[2].requires_grad_(False)
    return model


def move(model: nn.Module, steps: int) -> list[torch.Tensor]:
    """`steps` changes of all that learns; the first weight after each."""
    seen = []
    for _ in range(steps):
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.requires_grad:
                    parameter.add_(torch.randn_like(parameter))
        model(torch.randn(2, 3, 8, 8))
        seen.append(next(model.parameters()).detach().clone())
    return seen


def test_the_mean_starts_quickly_and_then_keeps_its_decay() -> None:
    model = network()
    ema, expected = ExponentialMovingAverage(model, 0.5), next(model.parameters()).detach().clone()
    for t in range(12):
        (weight,) = move(model, 1)
        ema.update(model)
        decay = min(0.5, (1 + t) / (10 + t))
        expected = decay * expected + (1 - decay) * weight
    assert decay == 0.5
    with ema.swapped(model):
        torch.testing.assert_close(next(model.parameters()).detach(), expected)


def test_within_it_the_model_has_the_mean_and_afterwards_its_own_weights_even_after_an_error() -> None:
    model = network()
    ema = ExponentialMovingAverage(model, 0.9)
    move(model, 3)
    ema.update(model)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    within: dict[str, torch.Tensor] = {}

    def interrupted() -> None:
        with ema.swapped(model):
            within.update({name: value.clone() for name, value in model.state_dict().items()})
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    same = {name for name, value in within.items() if torch.equal(value, before[name])}
    # what is frozen, and the statistics of the live batch norm
    assert same == {
        "1.running_mean",
        "1.running_var",
        "1.num_batches_tracked",
        "2.weight",
        "2.bias",
    }
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(p.requires_grad for p in model[:2].parameters())


def test_a_resumed_mean_is_that_of_an_undisturbed_one(tmp_path: Path) -> None:
    means = []
    for killed in (False, True):
        model = network()
        ema = ExponentialMovingAverage(model, 0.9)
        for step in range(20):
            move(model, 1)
            ema.update(model)
            if killed and step == 9:
                torch.save(ema.state_dict(), tmp_path / "ema.pt")
                ema = ExponentialMovingAverage(network(), 0.9)
                ema.load_state_dict(torch.load(tmp_path / "ema.pt", weights_only=True))
                torch.manual_seed(1)
            elif step == 9:
                torch.manual_seed(1)
        means.append(ema.state_dict())
    assert means[0]["updates"] == means[1]["updates"] == 20
    assert all(torch.equal(value, means[1]["mean"][name]) for name, value in means[0]["mean"].items())


def test_the_mean_of_another_model_is_refused() -> None:
    other = nn.Linear(2, 2)
    with pytest.raises(
        ValueError,
        match=r"belongs to another model; differing parameters: 0\.bias, 0.weight, 1.bias, 1.weight, bias, weight",
    ):
        ExponentialMovingAverage(network(), 0.9).load_state_dict(ExponentialMovingAverage(other, 0.9).state_dict())


def test_weights_that_become_trainable_are_averaged_from_then_on() -> None:
    model = network()
    ema = ExponentialMovingAverage(model, 0.5)
    for _ in range(10):
        move(model, 1)
        ema.update(model)
    mean = {name: value.clone() for name, value in ema.state_dict()["mean"].items()}
    model[2].requires_grad_(True)
    frozen = model[2].weight.detach().clone()
    ema.add_parameters(model)
    found = ema.state_dict()["mean"]
    assert all(torch.equal(found[name], value) for name, value in mean.items())
    assert torch.equal(found["2.weight"], frozen)
    move(model, 1)
    ema.update(model)
    torch.testing.assert_close(ema.state_dict()["mean"]["2.weight"], (frozen + model[2].weight.detach()) / 2)
