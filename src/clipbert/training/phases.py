"""Phases of a training: parts of the model whose training begins after a fraction of it.

The backbone (`train.unfreeze_at`) and a part that the task names (`Objective.late_start`) each begin once and are
trained to the end, with a learning rate warm-up and schedule of their own.
"""

from collections.abc import Mapping

from clipbert.config.training import TrainParams
from clipbert.training.lr_schedule import lr_lambda

VISION, TASK = "vision", "task"


def phase_starts(unfreeze_at: float | None, late_start: float | None) -> dict[str, float]:
    """Return the fraction of the training at which each phase begins, in the order of these fractions.

    Args:
        unfreeze_at: `train.unfreeze_at`.
        late_start: `Objective.late_start`.
    """
    given = {VISION: unfreeze_at, TASK: late_start}
    starts = {phase: start for phase, start in given.items() if start is not None}
    return dict(sorted(starts.items(), key=lambda item: item[1]))


def phases_to_begin(
    starts: Mapping[str, float], begun: Mapping[str, tuple[int, float]], done: float, total: float
) -> list[str]:
    """Return the phases that have not begun and whose fraction of the training is reached.

    Args:
        starts: the result of `phase_starts`.
        begun: the first step of each phase that has begun, and its position in the schedule.
        done, total: the position in the schedule, as in `lr_lambda`.
    """
    return [phase for phase, start in starts.items() if phase not in begun and done >= round(start * total)]


def lr_factors(
    begun: Mapping[str, tuple[int, float]], done: float, total: float, params: TrainParams
) -> dict[str, float]:
    """Return the learning rate as a fraction of its peak, by phase and under "" for what is trained from the start.

    Each phase has the whole schedule, with its warm-up, in its own part of the training.

    Args:
        begun, done, total: as in `phases_to_begin`.
    """
    factors = {phase: lr_lambda(max(0.0, done - start), total - start, params) for phase, (_, start) in begun.items()}
    return {"": lr_lambda(done, total, params), **factors}
