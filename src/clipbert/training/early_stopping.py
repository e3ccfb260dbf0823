"""Early stopping when the main metric has not improved for a number of epochs."""

import math
from collections.abc import Sequence


def epochs_since_best(validation: Sequence[dict[str, float]], metric: str, start: int = 0) -> int:
    """Return the number of epochs from the highest value of `metric` to the last validation.

    Of equal values the first one counts; NaN counts as the lowest value. Without validations the result is 0.

    Args:
        validation: rows of `TrainState.validation`.
        start: epoch before which no epoch is counted.
    """
    if not validation:
        return 0
    values = [-math.inf if math.isnan(row[metric]) else row[metric] for row in validation]
    best = values.index(max(values))
    return int(validation[-1]["epoch"] - max(start, validation[best]["epoch"]))


def out_of_patience(validation: Sequence[dict[str, float]], metric: str, patience: int | None, start: int = 0) -> bool:
    """Return whether training ends after the last validation; never with `patience` None.

    Args:
        validation, metric, start: as in `epochs_since_best`.
    """
    return patience is not None and epochs_since_best(validation, metric, start) >= patience
