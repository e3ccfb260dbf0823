"""Early stopping: when the main metric has not become better for too long."""

import math
from collections.abc import Sequence


def epochs_since_best(validation: Sequence[dict[str, float]], metric: str) -> int:
    """How many epochs before the last of the rows of `Progress.validation` the highest `metric` was; of equal ones the
    first counts, and what is no number counts as the lowest. 0 without rows."""
    if not validation:
        return 0
    values = [-math.inf if math.isnan(row[metric]) else row[metric] for row in validation]
    best = values.index(max(values))
    return int(validation[-1]["epoch"] - validation[best]["epoch"])


def out_of_patience(validation: Sequence[dict[str, float]], metric: str, patience: int | None) -> bool:
    """Whether training ends after the last of the rows; never with `patience` None."""
    return patience is not None and epochs_since_best(validation, metric) >= patience
