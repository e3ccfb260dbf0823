"""Comparison of two models on the same test items by the paired bootstrap."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

MAX_CELLS = 4_000_000


@dataclass(frozen=True)
class Comparison:
    """The mean difference of the scores `a` - `b`, its confidence interval and its p-value."""

    mean_difference: float
    low: float
    high: float
    p_value: float
    items: int


def paired_bootstrap(
    a: ArrayLike, b: ArrayLike, samples: int = 10_000, seed: int = 0, confidence: float = 0.95
) -> Comparison:
    """Compare two vectors of scores item by item (Efron and Tibshirani, 1993, chapters 13 and 16).

    Items are drawn with replacement `samples` times; `low` and `high` are the percentiles of the mean difference
    a - b that enclose `confidence`. `p_value` is two-sided, for the hypothesis that the mean difference is zero, and at
    least 2 / (samples + 1). The same arguments give the same numbers.

    Args:
        a: (n,) scores of one model.
        b: (n,) scores of the other model for the same items in the same order.

    Raises:
        ValueError: the vectors have different lengths, are empty, or contain a value that is not finite.
    """
    first, second = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if first.ndim != 1 or first.shape != second.shape:
        raise ValueError(f"scores of the same items are needed: shapes {first.shape} and {second.shape}")
    if first.size == 0:
        raise ValueError("there are no items to compare")
    differences = first - second
    if not np.isfinite(differences).all():
        raise ValueError("a score is not a finite number")

    means = _resampled_means(differences, samples, np.random.default_rng(seed))
    tail = (1 - confidence) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    fewer = min((means <= 0).sum(), (means >= 0).sum())
    return Comparison(
        mean_difference=float(differences.mean()),
        low=float(low),
        high=float(high),
        p_value=float(min(1.0, 2 * (fewer + 1) / (samples + 1))),
        items=differences.size,
    )


def _resampled_means(values: np.ndarray, samples: int, generator: np.random.Generator) -> np.ndarray:
    """Return the means (samples,) of `values` drawn with replacement.

    The counts of the distinct values are multinomial. Differences of scores of 0 and 1 have three distinct values, so
    a sample takes three random numbers instead of one per item.
    """
    distinct, counts = np.unique(values, return_counts=True)
    rows = max(1, MAX_CELLS // distinct.size)
    means = [
        generator.multinomial(values.size, counts / values.size, size=min(rows, samples - start)) @ distinct
        for start in range(0, samples, rows)
    ]
    return np.concatenate(means) / values.size
