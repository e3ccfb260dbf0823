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
    a: ArrayLike,
    b: ArrayLike,
    samples: int = 10_000,
    seed: int = 0,
    confidence: float = 0.95,
    videos: ArrayLike | None = None,
) -> Comparison:
    """Compare two vectors of scores item by item (Efron and Tibshirani, 1993, chapters 13 and 16).

    Videos with all their items are drawn with replacement `samples` times (the cluster bootstrap; Davison and Hinkley,
    1997, section 3.8); `low` and `high` are the percentiles of the mean difference a - b that enclose `confidence`.
    `p_value` is two-sided, for the hypothesis that the mean difference is zero, and at least 2 / (samples + 1). The
    same arguments give the same numbers.

    Args:
        a: (n,) scores of one model.
        b: (n,) scores of the other model for the same items in the same order.
        videos: (n,) the video of each item; None: each item is one of its own.

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

    sums: np.ndarray = differences
    counts: np.ndarray = np.ones_like(differences)
    if videos is not None:
        _, owners = np.unique(np.asarray(videos).astype(str), return_inverse=True)
        sums = np.bincount(owners.reshape(-1), differences)
        counts = np.bincount(owners.reshape(-1), np.ones_like(differences))
    means = _resampled_means(sums, counts, samples, np.random.default_rng(seed))
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


def _resampled_means(sums: np.ndarray, counts: np.ndarray, samples: int, generator: np.random.Generator) -> np.ndarray:
    """Return the means (samples,) of the items of videos drawn with replacement.

    How often each distinct pair of a sum and a count is drawn is multinomial. Differences of scores of 0 and 1 have few
    distinct sums, so a sample takes few random numbers instead of one per video.

    Args:
        sums: (v,) sum of the values of each video.
        counts: (v,) number of its values.
    """
    distinct, number = np.unique(np.stack([sums, counts], axis=1), axis=0, return_counts=True)
    rows = max(1, MAX_CELLS // len(distinct))
    means = []
    for start in range(0, samples, rows):
        drawn = generator.multinomial(sums.size, number / sums.size, size=min(rows, samples - start))
        means.append((drawn @ distinct[:, 0]) / (drawn @ distinct[:, 1]))
    return np.concatenate(means)
