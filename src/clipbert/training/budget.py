"""Progress of a training in its budget of steps, seconds or joules, and the decision when it ends."""

import time
from collections import deque
from statistics import fmean
from typing import Any, NamedTuple, Protocol

from clipbert.config.budget import Budget
from clipbert.distributed.context import DistributedContext
from clipbert.errors import ClipBertError

SCHEDULE_UNITS = 10_000  # into which a budget of seconds or joules is divided for the learning rate schedule
RECENT_STEPS = 20
FIRST_VALIDATION = 0.1


class EnergyMeter(Protocol):
    """A meter of the energy of the training device."""

    def joules(self) -> float | None:
        """Return the energy used since the meter was created; None if the device does not report it."""


class ResourceUsage(NamedTuple):
    """Resources used so far over all resumes, including validation, checkpoints and data loading."""

    step: int
    seconds: float = 0.0
    joules: float | None = None


class UsageTimer:
    """Timer of the resources that a training has used over all its resumes.

    All processes measure at the same time, because they agree on the value that decides when the training ends.
    """

    def __init__(self, seconds: float, energy: EnergyMeter, unit: str, context: DistributedContext) -> None:
        """
        Args:
            seconds: seconds used before this process started.
            unit: the unit of the budget.
        """
        self.started, self.energy, self.unit, self.context = time.monotonic() - seconds, energy, unit, context

    def measure(self, step: int) -> ResourceUsage:
        """Return the resources used up to `step`."""
        seconds, joules = time.monotonic() - self.started, self.energy.joules()
        if self.unit == "s":
            seconds = self.context.all_reduce_max(round(1000 * seconds))[0] / 1000
        if self.unit == "J":
            joules = sum(self.context.gather(joules or 0.0))
        return ResourceUsage(step, seconds, joules)


class BudgetTracker:
    """Progress in a budget, and when the training validates and ends because of it.

    A budget of steps, and the steps of all epochs where there is no budget, ends at exactly that step. A budget of
    seconds or joules includes the last validation: the training ends when another step would leave no room for it, and
    the learning rate schedule is stretched over what is left for steps. The cost of a step is estimated as the mean of
    the last 20 steps, the cost of a validation as that of the last one. To have such an estimate, the first validation
    follows after a tenth of the budget at the latest.
    """

    def __init__(self, budget: Budget | None, total_steps: int) -> None:
        """
        Args:
            total_steps: steps of all epochs; the budget where `budget` is None.
        """
        self.budget = budget or Budget(total_steps, "steps")
        self._step_costs: deque[float] = deque(maxlen=RECENT_STEPS)
        self._validation_cost: float | None = None

    def used(self, usage: ResourceUsage) -> float:
        """Return the amount of the budget that is used, in its unit."""
        return {"steps": usage.step, "s": usage.seconds, "J": usage.joules or 0.0}[self.budget.unit]

    def schedule_position(self, usage: ResourceUsage) -> tuple[float, float]:
        """Return (done, total) for `lr_lambda`: steps, or shares of the part of the budget that is left for steps."""
        if self.budget.unit == "steps":
            return usage.step, self.budget.amount
        return SCHEDULE_UNITS * self.progress(usage), SCHEDULE_UNITS

    def progress(self, usage: ResourceUsage) -> float:
        """Return the fraction of the way to the last step, in [0, 1]."""
        available = self._available_for_steps()
        return min(1.0, self.used(usage) / available) if available > 0 else 1.0

    def finished(self, usage: ResourceUsage) -> bool:
        """Return whether the training ends now; it has at least one step."""
        if self.budget.unit == "steps":
            return usage.step >= self.budget.amount
        return usage.step > 0 and self.used(usage) + self._mean_step_cost() > self._available_for_steps()

    def should_validate(self, usage: ResourceUsage, end_of_epoch: bool) -> bool:
        """Return whether to validate after a step that is not the last one.

        That is at the end of an epoch, provided that the budget has room for another step and for the last validation;
        and once early, while the cost of a validation is unknown.
        """
        if self.budget.unit == "steps":
            return end_of_epoch
        used = self.used(usage)
        if self._validation_cost is None:
            return end_of_epoch or used >= FIRST_VALIDATION * self.budget.amount
        cost = self._validation_cost + self._mean_step_cost()
        return end_of_epoch and used + cost <= self._available_for_steps()

    def record_step(self, before: ResourceUsage, after: ResourceUsage) -> None:
        """Record the cost of a step, from before its batch was loaded to its end."""
        self._step_costs.append(self.used(after) - self.used(before))

    def record_validation(self, before: ResourceUsage, after: ResourceUsage) -> None:
        """Record the cost of a validation."""
        self._validation_cost = self.used(after) - self.used(before)

    def forget_costs(self) -> None:
        """Discard the recorded costs, when the following steps and validations cost something else."""
        self._step_costs.clear()
        self._validation_cost = None

    def state_dict(self) -> dict[str, Any]:
        """Return the recorded costs, for a checkpoint."""
        return {"steps": list(self._step_costs), "validation": self._validation_cost}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the recorded costs."""
        self._step_costs = deque(state["steps"], maxlen=RECENT_STEPS)
        self._validation_cost = state["validation"]

    def _mean_step_cost(self) -> float:
        return fmean(self._step_costs) if self._step_costs else 0.0

    def _available_for_steps(self) -> float:
        return self.budget.amount - (self._validation_cost or 0.0)


def make_budget_tracker(
    budget: str | None, total_steps: int, energy: EnergyMeter, state: dict[str, Any] | None = None
) -> BudgetTracker:
    """Return the tracker of `train.budget`, or of `total_steps` if it is None.

    Args:
        state: `state_dict` of the tracker in the checkpoint that the training resumes from.

    Raises:
        ClipBertError: a budget of joules on a device that does not report its energy.
    """
    parsed = None if budget is None else Budget.parse(budget)
    if parsed is not None and parsed.unit == "J" and energy.joules() is None:
        raise ClipBertError(
            f"train.budget = {budget!r}: this device does not report its energy. Set a budget of time (900 s, 15 min, "
            "2 h) or of steps (5000 steps), or null to train for the task's epochs."
        )
    tracker = BudgetTracker(parsed, total_steps)
    if state is not None:
        tracker.load_state_dict(state)
    return tracker
