"""Early stopping when the main metric has not improved for a number of epochs."""

import math
from collections.abc import Sequence


def epochs_since_best(validation: Sequence[dict[str, float]], metric: str) -> int:
    """Return the number of epochs from the highest value of `metric` to the last validation.

    Of equal values the first one counts; NaN counts as the lowest value. Without validations the result is 0.

    Args:
        validation: rows of `TrainState.validation`.
    """
    if not validation:
        return 0
    values = [-math.inf if math.isnan(row[metric]) else row[metric] for row in validation]
    best = values.index(max(values))
    return int(validation[-1]["epoch"] - validation[best]["epoch"])


def out_of_patience(validation: Sequence[dict[str, float]], metric: str, patience: int | None) -> bool:
    """Return whether training ends after the last validation; never with `patience` None."""
    return patience is not None and epochs_since_best(validation, metric) >= patience
