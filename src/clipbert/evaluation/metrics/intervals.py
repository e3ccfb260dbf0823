"""Confidence intervals of metrics by the bootstrap over videos.

The texts of one video are not independent: a video that is hard for one of its captions is hard for the others. A
sample therefore draws whole videos with all their items (the cluster bootstrap; Davison and Hinkley, Bootstrap Methods
and their Application, 1997, section 3.8), and the interval is between percentiles of the resampled metric (Efron and
Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13).
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

SAMPLES, SEED, CONFIDENCE = 2000, 0, 0.95
MAX_CELLS = 4_000_000  # of one array of the resampling
Array = NDArray[np.float64]


@dataclass(frozen=True)
class Interval:
    """A confidence interval, both ends included."""

    low: float
    high: float

    @property
    def width(self) -> float:
        """The distance between the ends."""
        return self.high - self.low


class Statistic(ABC):
    """A metric of test items as a function of how often each video is drawn.

    Attributes:
        videos: (N,) names, the video of each item; the items of one video are drawn together.
    """

    videos: NDArray[np.str_]

    def __init__(self, videos: ArrayLike, items: int) -> None:
        """Args: `videos` (N,); `items`: the number of values.

        Raises:
            ValueError: their numbers differ.
        """
        self.videos = np.asarray(videos).astype(str)
        if len(self.videos) != items:
            raise ValueError(f"{items} values need the video of each, found {len(self.videos)} videos")

    @abstractmethod
    def value(self) -> float:
        """Return the metric of the items themselves."""

    @abstractmethod
    def resampled(self, draws: Array, owners: NDArray[np.int64]) -> Array:
        """Return the metric (S,) of S samples of videos.

        Args:
            draws: (S, V) how often each video was drawn.
            owners: (N,) the position of each item's video among the V videos.
        """

    def constant_limits(self, tail: float) -> Interval | None:
        """Return the interval where all items have the same extreme value and every draw is equal; else None."""
        return None


class Ratio(Statistic):
    """A sum over the items divided by another sum over the items, times `scale`."""

    def __init__(
        self,
        numerators: ArrayLike,
        videos: ArrayLike,
        denominators: ArrayLike | None = None,
        scale: float = 100,
        bounded: bool = True,
    ) -> None:
        """Create the metric.

        Args:
            numerators: (N,) values.
            videos: (N,) the video of each.
            denominators: (N,) values; None for ones, which makes the ratio a mean.
            scale: factor of the metric, 100 for percent.
            bounded: whether the ratio lies between 0 and 1, so that all zeros or all ones have limits of their own.
        """
        self.numerators = np.asarray(numerators, dtype=np.float64)
        super().__init__(videos, len(self.numerators))
        self.denominators = (
            np.ones_like(self.numerators) if denominators is None else np.asarray(denominators, dtype=np.float64)
        )
        self.scale, self.bounded = scale, bounded

    def value(self) -> float:
        """Return the ratio of the sums, 0 where the divisor is 0."""
        total = float(self.denominators.sum())
        return self.scale * float(self.numerators.sum()) / total if total else 0.0

    def resampled(self, draws: Array, owners: NDArray[np.int64]) -> Array:
        """Return the ratio of the sums over the drawn videos; NaN where they have no items."""
        videos = draws.shape[1]
        above = draws @ np.bincount(owners, self.numerators, minlength=videos)
        below = draws @ np.bincount(owners, self.denominators, minlength=videos)
        return self.scale * np.divide(above, below, out=np.full_like(above, np.nan), where=below > 0)

    def constant_limits(self, tail: float) -> Interval | None:
        """Return the exact binomial limits of no and of only successes (Clopper and Pearson, 1934), one per video."""
        if not self.bounded:
            return None
        limit = 1 - tail ** (1 / len(np.unique(self.videos)))
        if not self.numerators.any():
            return Interval(0.0, self.scale * limit)
        if (self.numerators == self.denominators).all():
            return Interval(self.scale * (1 - limit), self.scale)
        return None


class Median(Statistic):
    """The median of the items' values."""

    def __init__(self, values: ArrayLike, videos: ArrayLike) -> None:
        """Args: `values` (N,), and the video of each."""
        self.values = np.asarray(values, dtype=np.float64)
        super().__init__(videos, len(self.values))

    def value(self) -> float:
        """Return the median."""
        return float(np.median(self.values))

    def resampled(self, draws: Array, owners: NDArray[np.int64]) -> Array:
        """Return the median over the items of the drawn videos, each as often as its video; NaN without items."""
        order = np.argsort(self.values, kind="stable")
        values, of_item = self.values[order], owners[order]
        medians = np.empty(len(draws))
        rows = max(1, MAX_CELLS // max(1, len(values)))
        for start in range(0, len(draws), rows):
            upto = draws[start : start + rows][:, of_item].cumsum(axis=1)
            total = upto[:, -1:]
            # The items at the positions (total - 1) // 2 and total // 2 of the sorted sample, counted from 0.
            ends = [np.minimum((upto <= (total - shift) // 2).sum(axis=1), len(values) - 1) for shift in (1, 0)]
            found = (values[ends[0]] + values[ends[1]]) / 2
            medians[start : start + rows] = np.where(total[:, 0] > 0, found, np.nan)
        return medians


class OfSums(Statistic):
    """A function of sums over the items, as corpus BLEU is one of n-gram counts."""

    def __init__(
        self, columns: ArrayLike, videos: ArrayLike, function: Callable[[Array], Array], scale: float = 100
    ) -> None:
        """Create the metric.

        Args:
            columns: (N, C) values whose sums the function takes.
            videos: (N,) the video of each row.
            function: from sums (S, C) to metrics (S,).
            scale: factor of the metric, 100 for percent.
        """
        self.columns, self.function, self.scale = np.asarray(columns, dtype=np.float64), function, scale
        super().__init__(videos, len(self.columns))

    def value(self) -> float:
        """Return the function of the sums over all items."""
        return self.scale * float(self.function(self.columns.sum(axis=0, keepdims=True))[0])

    def resampled(self, draws: Array, owners: NDArray[np.int64]) -> Array:
        """Return the function of the sums over the drawn videos."""
        sums = np.zeros((draws.shape[1], self.columns.shape[1]))
        np.add.at(sums, owners, self.columns)
        return self.scale * self.function(draws @ sums)


class Average(Statistic):
    """The mean of several metrics of the same items."""

    def __init__(self, *parts: Statistic) -> None:
        """Args: `parts`, at least one."""
        self.parts = parts
        super().__init__(parts[0].videos, len(parts[0].videos))

    def value(self) -> float:
        """Return the mean of the parts."""
        return float(np.mean([part.value() for part in self.parts]))

    def resampled(self, draws: Array, owners: NDArray[np.int64]) -> Array:
        """Return the mean of the parts in each sample."""
        return np.asarray(np.mean([part.resampled(draws, owners) for part in self.parts], axis=0))


def bootstrap(
    statistics: Mapping[str, Statistic], samples: int = SAMPLES, seed: int = SEED, confidence: float = CONFIDENCE
) -> dict[str, Interval]:
    """Return a confidence interval for each metric, from `samples` draws of the videos with replacement.

    All metrics share the draws, and the same arguments give the same intervals. Where all items of a percentage are
    right, or none is, every draw is equal; the interval is then the exact binomial one for as many trials as there are
    videos. A metric with fewer than two videos has no interval.

    Raises:
        ValueError: a value of a metric is not a finite number.
    """
    tail = (1 - confidence) / 2
    known = {name: some for name, some in statistics.items() if len(np.unique(some.videos)) > 1}
    for name, statistic in known.items():
        if not np.isfinite(statistic.value()):
            raise ValueError(f"{name} is not a finite number")
    limits = {name: statistic.constant_limits(tail) for name, statistic in known.items()}
    open_ = [name for name, limit in limits.items() if limit is None]
    if open_:
        videos = np.unique(np.concatenate([known[name].videos for name in open_]))
        owners = {name: np.searchsorted(videos, known[name].videos) for name in open_}
        resampled: dict[str, list[Array]] = {name: [] for name in open_}
        for draws in draw_videos(len(videos), samples, np.random.default_rng(seed)):
            for name in open_:
                resampled[name].append(known[name].resampled(draws, owners[name]))
        for name in open_:
            low, high = np.nanquantile(np.concatenate(resampled[name]), [tail, 1 - tail])
            limits[name] = Interval(float(low), float(high))
    return {name: limit for name, limit in limits.items() if limit is not None}


def mean_interval(values: ArrayLike, videos: ArrayLike, bounded: bool = True) -> Interval | None:
    """Return the interval of the mean of the items' values in percent; None with fewer than two videos."""
    return bootstrap({"mean": Ratio(values, videos, bounded=bounded)}).get("mean")


def draw_videos(videos: int, samples: int, generator: np.random.Generator) -> Iterator[Array]:
    """Yield how often each video is drawn in each sample, as arrays (some samples, videos)."""
    rows = max(1, MAX_CELLS // videos)
    for start in range(0, samples, rows):
        size = min(rows, samples - start)
        drawn = generator.integers(videos, size=(size, videos)) + videos * np.arange(size)[:, None]
        yield np.bincount(drawn.ravel(), minlength=size * videos).reshape(size, videos).astype(np.float64)
