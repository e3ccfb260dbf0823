"""The learning rate's factor over a run, curve by curve."""

import math
from itertools import pairwise

import pytest

from clipbert.config.training import TrainParams
from clipbert.training.lr_schedule import lr_lambda

SCHEDULES = ("linear", "cosine", "inverse_sqrt", "multi_step", "constant")


def curve(steps: int, **fields: object) -> list[float]:
    return [lr_lambda(step, steps, TrainParams.model_validate(fields)) for step in range(steps)]


@pytest.mark.parametrize("warmup_fraction", [0.0, 0.1, 0.33, 1.0])
@pytest.mark.parametrize("steps", [1, 2, 7, 100, 1234])
def test_linear_is_the_rate_of_earlier_trainings_to_the_bit(steps: int, warmup_fraction: float) -> None:
    warmup = max(1, round(warmup_fraction * steps))
    expected = [
        (step + 1) / warmup if step < warmup else (steps - step) / max(1, steps - warmup) for step in range(steps)
    ]
    assert curve(steps, warmup_fraction=warmup_fraction) == expected


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_all_rise_alike_reach_the_peak_and_never_pass_it(schedule: str) -> None:
    factors = curve(100, schedule=schedule, warmup_fraction=0.1)
    assert factors[:10] == [(step + 1) / 10 for step in range(10)]
    assert max(factors) == 1.0
    assert all(later <= earlier for earlier, later in pairwise(factors[9:]))
    assert min(factors) > 0


def test_linear_and_cosine_end_near_zero() -> None:
    assert curve(100)[-1] == pytest.approx(1 / 90)
    cosine = curve(100, schedule="cosine")
    assert cosine[55] == pytest.approx(0.5)
    assert cosine[-1] == pytest.approx((1 + math.cos(math.pi * 89 / 90)) / 2)
    assert cosine[-1] < 0.001


def test_inverse_sqrt_halves_at_four_times_the_warm_up() -> None:
    factors = curve(100, schedule="inverse_sqrt")
    assert factors[9] == 1.0
    assert factors[39] == pytest.approx(0.5)
    assert factors[89] == pytest.approx(1 / 3)


def test_multi_step_falls_at_each_milestone() -> None:
    factors = curve(100, schedule="multi_step", milestones=[0.5, 0.75], gamma=0.1)
    assert set(factors[9:50]) == {1.0}
    assert factors[50:75] == pytest.approx([0.1] * 25)
    assert factors[75:] == pytest.approx([0.01] * 25)


def test_constant_stays() -> None:
    assert set(curve(100, schedule="constant")[9:]) == {1.0}


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("warmup_fraction", [0.0, 0.5, 1.0])
def test_between_steps_and_at_the_very_end_it_is_a_share(schedule: str, warmup_fraction: float) -> None:
    params = TrainParams.model_validate({"schedule": schedule, "warmup_fraction": warmup_fraction})
    shares = [lr_lambda(10_000 * part / 997, 10_000, params) for part in range(998)]
    assert all(0 <= share <= 1 for share in shares)
