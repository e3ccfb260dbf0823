"""Budgets: what they say, how far a training is in one, and that it ends there."""

import random
from dataclasses import dataclass

import pytest

from clipbert.config.training import TrainParams
from clipbert.errors import ClipBertError
from clipbert.training.budget import Budget, BudgetTracker, ResourceUsage, make_budget_tracker
from clipbert.training.lr_schedule import factor


@dataclass
class ThroughputMonitor:
    """A device that tells this energy."""

    total: float | None

    def joules(self) -> float | None:
        return self.total


@dataclass
class Simulation:
    """A training whose steps and validations take what chance says; `end` is what all of it took."""

    end: ResourceUsage
    factors: list[float]
    validations: list[int]
    last_step: float


def simulate(
    budget: str, step_s: float, validation_s: float, steps_per_epoch: int, watts: float = 200.0, spread: float = 0.5
) -> Simulation:
    """The calls that the loop makes, against a clock that is moved by hand."""
    chance = random.Random(0)
    pace, params = make_budget_tracker(budget, steps=10**9, energy=ThroughputMonitor(0.0)), TrainParams()
    now, factors, validations, took = ResourceUsage(0, 0.0, 0.0), list[float](), list[int](), 0.0

    def take(seconds: float, steps: int = 0) -> ResourceUsage:
        return ResourceUsage(now.step + steps, now.seconds + seconds, (now.joules or 0.0) + seconds * watts)

    last = pace.finished(now)
    while not last:
        factors.append(factor(*pace.position(now), params))
        took = step_s * chance.uniform(1 - spread, 1 + spread)
        before, now = now, take(took, steps=1)
        pace.stepped(before, now)
        last = pace.finished(now)
        if last or pace.validates(now, end_of_epoch=now.step % steps_per_epoch == 0):
            before, now = now, take(validation_s * chance.uniform(0.95, 1.05))
            pace.validated(before, now)
            validations.append(now.step)
            last = last or pace.finished(now)
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
    pace = make_budget_tracker(None, steps=40, energy=ThroughputMonitor(None))
    assert pace.position(ResourceUsage(10, 1e9)) == (10, 40)
    assert [pace.finished(ResourceUsage(step, 1e9)) for step in (0, 39, 40)] == [False, False, True]
    assert pace.validates(ResourceUsage(10), end_of_epoch=True)
    assert not pace.validates(ResourceUsage(11), end_of_epoch=False)


def test_a_budget_of_steps_is_exact_and_its_schedule_ends_there() -> None:
    made = simulate("300 steps", step_s=1.0, validation_s=5.0, steps_per_epoch=70)
    assert made.end.step == 300
    assert made.factors == [factor(step, 300, TrainParams()) for step in range(300)]
    assert made.validations == [70, 140, 210, 280, 300]


@pytest.mark.parametrize("budget", ["15 min", "180 kJ"])
@pytest.mark.parametrize(
    ("step_s", "validation_s", "steps_per_epoch"),
    [
        (0.5, 4.0, 100),
        (0.5, 60.0, 100),  # dear validations
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
    pace = BudgetTracker(Budget(900, "s"), steps=10)
    assert pace.progress(ResourceUsage(0, 0.0)) == 0.0
    assert pace.progress(ResourceUsage(5, 450.0)) == 0.5
    assert pace.progress(ResourceUsage(5, 2000.0)) == 1.0
    pace.validated(ResourceUsage(5, 450.0), ResourceUsage(5, 550.0))
    assert pace.progress(ResourceUsage(5, 600.0)) == 0.75
    assert factor(*pace.position(ResourceUsage(9, 800.0)), TrainParams()) == 0.0


def test_a_budget_that_the_start_used_up_still_makes_one_step() -> None:
    pace = BudgetTracker(Budget(1, "s"), steps=10)
    assert not pace.finished(ResourceUsage(0, 60.0))
    assert pace.finished(ResourceUsage(1, 61.0))


def test_what_was_measured_survives_a_resume() -> None:
    pace, again = BudgetTracker(Budget(900, "s"), steps=10), BudgetTracker(Budget(900, "s"), steps=10)
    pace.stepped(ResourceUsage(0, 0.0), ResourceUsage(1, 20.0))
    pace.validated(ResourceUsage(1, 20.0), ResourceUsage(1, 120.0))
    again.load_state_dict(pace.state_dict())
    for seconds in (100.0, 779.0, 781.0):
        assert again.finished(ResourceUsage(9, seconds)) == pace.finished(ResourceUsage(9, seconds)) == (seconds > 780)
    assert again.position(ResourceUsage(9, 500.0)) == pace.position(ResourceUsage(9, 500.0))


def test_joules_where_the_device_tells_none_are_refused_at_the_start() -> None:
    said = r"train.budget = '400 kJ': this device does not tell the energy it takes. Give a budget of time \(900 s"
    with pytest.raises(ClipBertError, match=said):
        make_budget_tracker("400 kJ", steps=10, energy=ThroughputMonitor(None))
    assert make_budget_tracker("400 kJ", steps=10, energy=ThroughputMonitor(0.0)).budget == Budget(400_000, "J")
    assert make_budget_tracker("2 h", steps=10, energy=ThroughputMonitor(None)).budget == Budget(7200, "s")
