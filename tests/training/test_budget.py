"""Budgets: parsing, progress, and the end of a training."""

import random
from dataclasses import dataclass

import pytest

from clipbert.config.budget import Budget
from clipbert.config.training import TrainParams
from clipbert.errors import ClipBertError
from clipbert.training.budget import BudgetTracker, ResourceUsage, make_budget_tracker
from clipbert.training.lr_schedule import lr_lambda


@dataclass
class Meter:
    """Energy meter that reports this total."""

    total: float | None

    def joules(self) -> float | None:
        return self.total


@dataclass
class Simulation:
    """Simulated training with random costs of steps and validations; `end` is the total usage."""

    end: ResourceUsage
    factors: list[float]
    validations: list[int]
    last_step: float


def simulate(
    budget: str, step_s: float, validation_s: float, steps_per_epoch: int, watts: float = 200.0, spread: float = 0.5
) -> Simulation:
    """Make the calls of the training loop with simulated time."""
    chance = random.Random(0)
    tracker, params = make_budget_tracker(budget, total_steps=10**9, energy=Meter(0.0)), TrainParams()
    now, factors, validations, took = ResourceUsage(0, 0.0, 0.0), list[float](), list[int](), 0.0

    def take(seconds: float, steps: int = 0) -> ResourceUsage:
        return ResourceUsage(now.step + steps, now.seconds + seconds, (now.joules or 0.0) + seconds * watts)

    last = tracker.finished(now)
    while not last:
        factors.append(lr_lambda(*tracker.schedule_position(now), params))
        took = step_s * chance.uniform(1 - spread, 1 + spread)
        before, now = now, take(took, steps=1)
        tracker.record_step(before, now)
        last = tracker.finished(now)
        if last or tracker.should_validate(now, end_of_epoch=now.step % steps_per_epoch == 0):
            before, now = now, take(validation_s * chance.uniform(0.95, 1.05))
            tracker.record_validation(before, now)
            validations.append(now.step)
            last = last or tracker.finished(now)
    return Simulation(now, factors, validations, took)


@pytest.mark.parametrize(
    ("text", "amount", "unit"),
    [
        ("900 s", 900, "s"),
        ("15 min", 900, "s"),
        ("1.5h", 5400, "s"),
        ("5000 steps", 5000, "steps"),
        ("0.5 kJ", 500, "J"),
        ("7 J", 7, "J"),
    ],
)
def test_a_budget_is_read_with_its_unit(text: str, amount: float, unit: str) -> None:
    assert Budget.parse(text) == Budget(amount, unit)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "text", ["", "900", "s", "0 s", "0.0 h", "-1 s", "1.5 steps", "2 days", "1e3 s", "1 s ", "٣ s"]
)
def test_anything_else_is_no_budget(text: str) -> None:
    with pytest.raises(ValueError, match="number"):
        Budget.parse(text)


def test_without_a_budget_the_epochs_count() -> None:
    tracker = make_budget_tracker(None, total_steps=40, energy=Meter(None))
    assert tracker.schedule_position(ResourceUsage(10, 1e9)) == (10, 40)
    assert [tracker.finished(ResourceUsage(step, 1e9)) for step in (0, 39, 40)] == [False, False, True]
    assert tracker.should_validate(ResourceUsage(10), end_of_epoch=True)
    assert not tracker.should_validate(ResourceUsage(11), end_of_epoch=False)


def test_a_budget_of_steps_is_exact_and_its_schedule_ends_there() -> None:
    made = simulate("300 steps", step_s=1.0, validation_s=5.0, steps_per_epoch=70)
    assert made.end.step == 300
    assert made.factors == [lr_lambda(step, 300, TrainParams()) for step in range(300)]
    assert made.validations == [70, 140, 210, 280, 300]


@pytest.mark.parametrize("budget", ["15 min", "180 kJ"])
@pytest.mark.parametrize(
    ("step_s", "validation_s", "steps_per_epoch"),
    [
        (0.5, 4.0, 100),
        (0.5, 60.0, 100),  # expensive validations
        (0.5, 60.0, 10**6),  # an epoch never ends
        (20.0, 60.0, 7),  # few steps
        (0.5, 100.0, 1650),  # an epoch that ends just before the budget
        (0.02, 1.0, 5000),
    ],
)
def test_a_budget_ends_on_time_with_its_validation_and_a_rate_near_zero(
    budget: str, step_s: float, validation_s: float, steps_per_epoch: int
) -> None:
    made = simulate(budget, step_s, validation_s, steps_per_epoch)
    assert made.validations[-1] == made.end.step
    assert abs(made.end.seconds - 900) <= max(0.02 * 900, step_s + 0.1 * validation_s)
    assert made.factors[0] < 0.01
    assert max(made.factors) > 0.9
    # the last step starts about one step, and what validations differ by, before the end
    assert made.factors[-1] < 1.2 * (2 * step_s + 0.1 * validation_s) / (900 - validation_s) / 0.9


def test_the_schedule_follows_what_was_spent_not_the_steps() -> None:
    tracker = BudgetTracker(Budget(900, "s"), total_steps=10)
    assert tracker.progress(ResourceUsage(0, 0.0)) == 0.0
    assert tracker.progress(ResourceUsage(5, 450.0)) == 0.5
    assert tracker.progress(ResourceUsage(5, 2000.0)) == 1.0
    tracker.record_validation(ResourceUsage(5, 450.0), ResourceUsage(5, 550.0))
    assert tracker.progress(ResourceUsage(5, 600.0)) == 0.75
    assert lr_lambda(*tracker.schedule_position(ResourceUsage(9, 800.0)), TrainParams()) == 0.0


def test_a_budget_that_the_start_used_up_still_makes_one_step() -> None:
    tracker = BudgetTracker(Budget(1, "s"), total_steps=10)
    assert not tracker.finished(ResourceUsage(0, 60.0))
    assert tracker.finished(ResourceUsage(1, 61.0))


def test_what_was_measured_survives_a_resume() -> None:
    tracker, again = BudgetTracker(Budget(900, "s"), total_steps=10), BudgetTracker(Budget(900, "s"), total_steps=10)
    tracker.record_step(ResourceUsage(0, 0.0), ResourceUsage(1, 20.0))
    tracker.record_validation(ResourceUsage(1, 20.0), ResourceUsage(1, 120.0))
    again.load_state_dict(tracker.state_dict())
    for seconds in (100.0, 779.0, 781.0):
        assert (
            again.finished(ResourceUsage(9, seconds)) == tracker.finished(ResourceUsage(9, seconds)) == (seconds > 780)
        )
    assert again.schedule_position(ResourceUsage(9, 500.0)) == tracker.schedule_position(ResourceUsage(9, 500.0))


def test_joules_where_the_device_tells_none_are_refused_at_the_start() -> None:
    said = r"train.budget = '400 kJ': this device does not report its energy. Set a budget of time \(900 s"
    with pytest.raises(ClipBertError, match=said):
        make_budget_tracker("400 kJ", total_steps=10, energy=Meter(None))
    assert make_budget_tracker("400 kJ", total_steps=10, energy=Meter(0.0)).budget == Budget(400_000, "J")
    assert make_budget_tracker("2 h", total_steps=10, energy=Meter(None)).budget == Budget(7200, "s")
