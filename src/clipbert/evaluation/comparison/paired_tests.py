"""Paired tests of two models on the same test items, and the correction for several tests.

Items of one video are not independent. Where a video has several items, the tests treat whole videos as the units:
under the hypothesis that the models are equally good, the differences of all items of a video change their sign
together.
"""

from dataclasses import dataclass

import numpy as np
import scipy.stats
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]
MAX_ENUMERATED = 14  # videos whose 2^n signs are all tried; with more, the sum of the signed values is nearly normal


@dataclass(frozen=True)
class PairedTest:
    """The result of a two-sided paired test of B against A.

    Attributes:
        name: of the test, as a reader knows it.
        p_value: probability of a difference at least as large if the models were equally good.
        won, lost, tied: numbers of items on which B is better, worse, and equally good.
        clustered: whether videos with several items were the units.
    """

    name: str
    p_value: float
    won: int
    lost: int
    tied: int
    clustered: bool


def mcnemar(a: ArrayLike, b: ArrayLike, videos: ArrayLike) -> PairedTest:
    """Test whether two models answer equally many items right (McNemar, Psychometrika 12, 1947).

    With one item per video it is the exact test: the number of items that only B answers right is binomial among those
    that exactly one model answers right. With several, see `sign_flip_p_value`.

    Args:
        a, b: (N,) 1 or True where the model is right, else 0.
        videos: (N,) the video of each item.

    Raises:
        ValueError: a value is neither 0 nor 1, or the lengths differ.
    """
    first, second, names = _aligned(a, b, videos)
    if not (np.isin(first, (0, 1)).all() and np.isin(second, (0, 1)).all()):
        raise ValueError("McNemar's test needs answers that are right (1) or wrong (0)")
    differences = second - first
    won, lost = int((differences > 0).sum()), int((differences < 0).sum())
    clustered = len(np.unique(names)) < len(names)
    if clustered:
        p_value = sign_flip_p_value(_sums(differences, names))
    else:
        p_value = float(scipy.stats.binomtest(won, won + lost).pvalue) if won + lost else 1.0
    return PairedTest("McNemar", p_value, won, lost, int((differences == 0).sum()), clustered)


def wilcoxon(a: ArrayLike, b: ArrayLike, videos: ArrayLike, lower_is_better: bool = False) -> PairedTest:
    """Test whether two models have equally good values (signed-rank test; Wilcoxon, Biometrics Bulletin 1, 1945).

    The differences of the items are ranked by their size, equal ones at their mean rank, and zeros are left out. With
    one item per video, the p-value is scipy's. With several, the sums of the signed ranks of each video are the units
    (Rosner, Glynn and Lee, Biometrics 62, 2006), see `sign_flip_p_value`.

    Args:
        a, b: (N,) values of the items.
        videos: (N,) the video of each item.
        lower_is_better: as for the ranks of retrieval.

    Raises:
        ValueError: a value is not a finite number, or the lengths differ.
    """
    first, second, names = _aligned(a, b, videos)
    differences = first - second if lower_is_better else second - first
    clustered = len(np.unique(names)) < len(names)
    nonzero = differences != 0
    if not nonzero.any():
        p_value = 1.0
    elif clustered:
        ranks = scipy.stats.rankdata(np.abs(differences[nonzero]))
        p_value = sign_flip_p_value(_sums(np.sign(differences[nonzero]) * ranks, names[nonzero]))
    else:
        p_value = float(scipy.stats.wilcoxon(differences[nonzero], correction=False).pvalue)
    won, lost = int((differences > 0).sum()), int((differences < 0).sum())
    return PairedTest("Wilcoxon signed-rank", p_value, won, lost, int((~nonzero).sum()), clustered)


def sign_flip_p_value(values: ArrayLike) -> float:
    """Return the two-sided p-value of the sum of independent values whose signs are random under the hypothesis.

    Up to `MAX_ENUMERATED` values that are not zero, all signs are enumerated; with more, the sum divided by the root of
    the sum of the squares is compared with the normal distribution. With values of 1 and -1 it is McNemar's test, with
    signed ranks Wilcoxon's.
    """
    units = np.asarray(values, dtype=np.float64)
    units = units[units != 0]
    total = abs(float(units.sum()))
    if units.size == 0:
        return 1.0
    if units.size > MAX_ENUMERATED:
        return float(2 * scipy.stats.norm.sf(total / np.sqrt((units**2).sum())))
    sums = np.zeros(1)
    for unit in units:
        sums = np.concatenate([sums + unit, sums - unit])
    return float((np.abs(sums) >= total - 1e-9 * max(1.0, total)).mean())


def holm(p_values: ArrayLike) -> list[float]:
    """Return the p-values of several tests, corrected so that the chance of any false finding is bounded.

    The step-down procedure of Holm (Scandinavian Journal of Statistics 6, 1979): the i-th smallest of m p-values is
    multiplied by m - i + 1, is at least as large as the one before it, and at most 1.
    """
    values = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(values, kind="stable")
    factors = np.arange(len(values), 0, -1)
    corrected = np.empty(len(values))
    corrected[order] = np.minimum(1, np.maximum.accumulate(factors * values[order]))
    return [float(value) for value in corrected]


def _aligned(a: ArrayLike, b: ArrayLike, videos: ArrayLike) -> tuple[Array, Array, NDArray[np.str_]]:
    first, second = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    names = np.asarray(videos).astype(str)
    if first.ndim != 1 or not first.shape == second.shape == names.shape:
        raise ValueError(f"values of the same items are needed: {first.shape}, {second.shape} and {names.shape} videos")
    if not (np.isfinite(first).all() and np.isfinite(second).all()):
        raise ValueError("a value is not a finite number")
    return first, second, names


def _sums(values: Array, videos: NDArray[np.str_]) -> Array:
    """Return the sum of the values of each video."""
    _, owners = np.unique(videos, return_inverse=True)
    return np.asarray(np.bincount(owners.reshape(-1), values), dtype=np.float64)
