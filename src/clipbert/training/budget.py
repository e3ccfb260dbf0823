"""What a training may take: steps, seconds or joules instead of epochs; how far it is in that, and when it ends."""

import re
from collections import deque
from dataclasses import dataclass
from statistics import fmean
from typing import Any, Final, Literal, NamedTuple, Protocol

from clipbert.errors import ClipBertError

Quantity = Literal["steps", "s", "J"]
UNITS: Final[dict[str, tuple[Quantity, int]]] = {  # what each unit measures, and how many of its units it is
    "s": ("s", 1),
    "min": ("s", 60),
    "h": ("s", 3600),
    "steps": ("steps", 1),
    "J": ("J", 1),
    "kJ": ("J", 1000),
}
PARTS = 10_000  # in which a budget of seconds or joules is counted for the schedule
RECENT_STEPS = 20
FIRST_VALIDATION = 0.1


class Energy(Protocol):
    """A meter of the device's energy."""

    def joules(self) -> float | None:
        """What the device has taken since the meter was made; None where it does not tell."""


class ResourceUsage(NamedTuple):
    """What a training has taken so far, over all its resumes: validation, checkpoints and loading included."""

    step: int
    seconds: float = 0.0
    joules: float | None = None


@dataclass(frozen=True)
class Budget:
    """`amount` steps, seconds or joules."""

    amount: float
    unit: Quantity

    @classmethod
    def parse(cls, text: str) -> "Budget":
        """What train.budget says: "900 s", "15 min", "2 h", "5000 steps", "400 kJ".

        Raises:
            ValueError: no such text, nothing at all, or a part of a step.
        """
        told = re.fullmatch(rf"(\d+(?:\.\d+)?) ?({'|'.join(UNITS)})", text, flags=re.ASCII)
        if told is None or float(told[1]) == 0:
            raise ValueError(f"a number above 0 and one of {', '.join(UNITS)}")
        if told[2] == "steps" and "." in told[1]:
            raise ValueError("a whole number of steps")
        unit, size = UNITS[told[2]]
        return cls(float(told[1]) * size, unit)

    def of(self, spent: ResourceUsage) -> float:
        """The part of `spent` that this budget is about."""
        return {"steps": spent.step, "s": spent.seconds, "J": spent.joules or 0.0}[self.unit]


class BudgetTracker:
    """How far a training is in what it may take, and when it ends.

    Without a budget, and with one of steps, it ends at exactly that step. With one of seconds or joules the last
    validation is part of it: the training ends when another step would leave no room for it, and the learning rate's
    schedule is stretched over what is left for steps. A step is reckoned as the mean of the last 20, a validation as
    the last one was; so that one is known, a first validation follows a tenth of such a budget at the latest.
    """

    def __init__(self, budget: Budget | None, steps: int) -> None:
        """`steps`: those of all epochs, which count where there is no budget."""
        self.budget = budget or Budget(steps, "steps")
        self._steps: deque[float] = deque(maxlen=RECENT_STEPS)
        self._validation: float | None = None

    def position(self, spent: ResourceUsage) -> tuple[float, float]:
        """(done, total) for `schedule.factor`: steps, or parts of the budget that is there for steps."""
        if self.budget.unit == "steps":
            return spent.step, self.budget.amount
        return PARTS * self.progress(spent), PARTS

    def progress(self, spent: ResourceUsage) -> float:
        """The share of the way to the last step, in [0, 1]."""
        room = self._room_for_steps()
        return min(1.0, self.budget.of(spent) / room) if room > 0 else 1.0

    def finished(self, spent: ResourceUsage) -> bool:
        """Whether no step follows; there is one step at least."""
        if self.budget.unit == "steps":
            return spent.step >= self.budget.amount
        return spent.step > 0 and self.budget.of(spent) + self._step() > self._room_for_steps()

    def validates(self, spent: ResourceUsage, end_of_epoch: bool) -> bool:
        """Whether a validation follows a step that is not the last: at the end of an epoch, where it leaves room for
        another step and for the last validation; and once early, where none was measured yet."""
        if self.budget.unit == "steps":
            return end_of_epoch
        if self._validation is None:
            return end_of_epoch or self.budget.of(spent) >= FIRST_VALIDATION * self.budget.amount
        return end_of_epoch and self.budget.of(spent) + self._validation + self._step() <= self._room_for_steps()

    def stepped(self, before: ResourceUsage, after: ResourceUsage) -> None:
        """Remember what a step took, from before its batch was loaded to after it."""
        self._steps.append(self.budget.of(after) - self.budget.of(before))

    def validated(self, before: ResourceUsage, after: ResourceUsage) -> None:
        """Remember what a validation took, with the checkpoint that follows it."""
        self._validation = self.budget.of(after) - self.budget.of(before)

    def state_dict(self) -> dict[str, Any]:
        """What was measured, for a checkpoint."""
        return {"steps": list(self._steps), "validation": self._validation}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Put back what `state_dict` gave."""
        self._steps = deque(state["steps"], maxlen=RECENT_STEPS)
        self._validation = state["validation"]

    def _step(self) -> float:
        return fmean(self._steps) if self._steps else 0.0

    def _room_for_steps(self) -> float:
        return self.budget.amount - (self._validation or 0.0)


def make_budget_tracker(
    budget: str | None, steps: int, energy: Energy, state: dict[str, Any] | None = None
) -> BudgetTracker:
    """The pace of `train.budget`, of `steps` where it is None; with the `state_dict` that an earlier one had.

    Raises:
        ClipBertError: a budget of joules on a device that does not tell its energy.
    """
    parsed = None if budget is None else Budget.parse(budget)
    if parsed is not None and parsed.unit == "J" and energy.joules() is None:
        raise ClipBertError(
            f"train.budget = {budget!r}: this device does not tell the energy it takes. Give a budget of time (900 s, "
            "15 min, 2 h) or of steps (5000 steps), or null for the task's epochs."
        )
    pace = BudgetTracker(parsed, steps)
    if state is not None:
        pace.load_state_dict(state)
    return pace
