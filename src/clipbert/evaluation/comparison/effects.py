"""Differences of metrics between models on the same test items, with intervals over videos and over seeds."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import scipy.stats
from numpy.typing import NDArray

from clipbert.evaluation.metrics.intervals import CONFIDENCE, SAMPLES, SEED, Statistic, draw_videos

Statistics = Mapping[str, Statistic]  # of one model's predictions, by the name of the metric
Array = NDArray[np.float64]


@dataclass(frozen=True)
class Effect:
    """The difference of a metric, B minus A, with its 95 % interval.

    Attributes:
        a, b: the metric of each; with several seeds its mean over them.
        low, high: the ends of the interval.
    """

    a: float
    b: float
    low: float
    high: float

    @property
    def difference(self) -> float:
        """The metric of B minus that of A."""
        return self.b - self.a

    @property
    def excludes_zero(self) -> bool:
        """Whether the interval lies on one side of 0."""
        return self.low > 0 or self.high < 0


@dataclass(frozen=True)
class SeedEffect(Effect):
    """An effect between two groups of trainings that differ in the seed only.

    Attributes:
        standard_error: of the difference, for another choice of test videos and other seeds.
        items_error: its part from the choice of test videos.
        seeds_error: its part from the seeds.
        seed_deviation: (A, B) standard deviation of the metric between trainings with different seeds.
        degrees: degrees of freedom of the interval's t distribution.
        p_value: two-sided, for the hypothesis that the difference is 0.
    """

    standard_error: float
    items_error: float
    seeds_error: float
    seed_deviation: tuple[float, float]
    degrees: float
    p_value: float


@dataclass(frozen=True)
class SeedMean:
    """The mean of a metric over trainings that differ in the seed only, with its 95 % interval.

    Attributes:
        value: the mean.
        low, high: the ends of the interval.
        standard_error: for another choice of videos and other seeds; of one training, for other videos alone.
        seed_deviation: standard deviation of the metric between the trainings; NaN of one.
        degrees: degrees of freedom of the interval's t distribution.
    """

    value: float
    low: float
    high: float
    standard_error: float
    seed_deviation: float
    degrees: float


@dataclass(frozen=True)
class BlockedEffect(Effect):
    """An effect between two settings that were trained with the same seeds.

    Attributes:
        standard_error: of the difference, for another choice of test videos and other seeds.
        p_value: two-sided, for the hypothesis that the difference is 0.
    """

    standard_error: float
    p_value: float


class _Difference(Statistic):
    """The difference of a metric between two trainings on the same items, B minus A."""

    def __init__(self, a: Statistic, b: Statistic) -> None:
        self.a, self.b = a, b
        super().__init__(a.videos, len(a.videos))

    def value(self) -> float:
        return self.b.value() - self.a.value()

    def resampled(self, draws: Array, owners: NDArray[np.int64]) -> Array:
        return self.b.resampled(draws, owners) - self.a.resampled(draws, owners)


def paired_effects(
    a: Statistics, b: Statistics, samples: int = SAMPLES, seed: int = SEED, confidence: float = CONFIDENCE
) -> dict[str, Effect]:
    """Return the effect on each metric that both models have, by the paired bootstrap over videos.

    A sample draws videos with replacement, with all their items, and takes the difference of both models' metrics on
    the same draw; the interval is between percentiles of these differences (Efron and Tibshirani, An Introduction to
    the Bootstrap, 1993, chapter 13; Davison and Hinkley, 1997, section 3.8, for whole clusters). Metrics of fewer than
    two videos have no interval: its ends are NaN.

    Args:
        a, b: statistics of the same items in the same order.
    """
    names = [name for name in a if name in b]
    drawn = _resample([a, b], names, samples, seed)
    tail, found = (1 - confidence) / 2, {}
    for name in names:
        low = high = float("nan")
        if len(np.unique(a[name].videos)) > 1:
            low, high = np.nanquantile(drawn[name][1] - drawn[name][0], [tail, 1 - tail]).tolist()
        found[name] = Effect(a[name].value(), b[name].value(), low, high)
    return found


def seed_effects(
    a: Sequence[Statistics],
    b: Sequence[Statistics],
    samples: int = SAMPLES,
    seed: int = SEED,
    confidence: float = CONFIDENCE,
) -> dict[str, SeedEffect]:
    """Return the effect on each metric between two groups of trainings with several seeds each.

    A metric differs between trainings for two reasons: another choice of test videos, and another seed. Videos are
    crossed with the trainings (all are evaluated on the same videos), and seeds are nested in the group, as cases and
    readers are in the two-way random effects model of Searle, Casella and McCulloch (Variance Components, 1992,
    chapter 4). With S seeds per group, the variance of the difference of the groups' means is estimated from

    - V, the variance of the difference of means over draws of the videos (the cluster bootstrap, equal draws for all
      trainings), which contains the videos and the interaction of video and seed;
    - W, the sum over groups of (variance of the metric between seeds) / S, which contains the seeds and the
      interaction;
    - R, the interaction alone, the sum over groups of the mean over seeds of (variance over the same draws of a
      training's metric minus the mean of its group) / (S - 1), which V and W both contain.

    Variance of the difference: V + max(0, W - R). For a mean over items, V, W and R are the ANOVA estimators of the
    model, up to the factor (n - 1) / n of a bootstrap over n videos. The interval is that of the t distribution with
    degrees of freedom after Satterthwaite (Biometrics Bulletin 2, 1946), from n - 1 for V and S - 1 for each group's
    part of W: with three seeds per group it is much wider than a normal one.

    Args:
        a, b: statistics of each training, of the same items in the same order; at least two trainings each.

    Raises:
        ValueError: a group has fewer than two trainings.
    """
    if min(len(a), len(b)) < 2:
        raise ValueError("the noise of seeds needs at least two trainings in each group")
    runs = [*a, *b]
    names = [name for name in runs[0] if all(name in run for run in runs)]
    drawn = _resample(runs, names, samples, seed)
    found = {}
    for name in names:
        values = np.array([run[name].value() for run in runs])
        groups = slice(0, len(a)), slice(len(a), len(runs))
        draws = [np.stack(drawn[name][group]) for group in groups]  # (S, samples) each
        means = [float(values[group].mean()) for group in groups]
        items = float(np.nanvar(draws[1].mean(axis=0) - draws[0].mean(axis=0)))
        between = [float(values[group].var(ddof=1)) for group in groups]
        shares = [variance / len(some) for variance, some in zip(between, draws, strict=True)]
        residual = sum(_interaction(some) for some in draws)
        seeds = max(0.0, sum(shares) - residual)
        error = float(np.sqrt(items + seeds))
        degrees = _degrees(items + seeds, items, len(np.unique(runs[0][name].videos)), shares, [len(a), len(b)])
        half = float(scipy.stats.t.ppf((1 + confidence) / 2, degrees)) * error
        difference = means[1] - means[0]
        p_value = float(2 * scipy.stats.t.sf(abs(difference) / error, degrees)) if error else float(difference == 0)
        found[name] = SeedEffect(
            a=means[0],
            b=means[1],
            low=difference - half,
            high=difference + half,
            standard_error=error,
            items_error=float(np.sqrt(items)),
            seeds_error=float(np.sqrt(seeds)),
            seed_deviation=(float(np.sqrt(between[0])), float(np.sqrt(between[1]))),
            degrees=degrees,
            p_value=p_value,
        )
    return found


def seed_means(
    runs: Sequence[Statistics],
    samples: int = SAMPLES,
    seed: int = SEED,
    confidence: float = CONFIDENCE,
) -> dict[str, SeedMean]:
    """Return the mean of each metric over trainings with different seeds, and its standard error.

    The variance has the two sources of `seed_effects`, here of one group: V + max(0, W - R).

    Args:
        runs: statistics of each training, of the same items in the same order.

    Raises:
        ValueError: there are no trainings.
    """
    if not runs:
        raise ValueError("the mean over seeds needs at least one training")
    names = [name for name in runs[0] if all(name in run for run in runs)]
    drawn, found = _resample(runs, names, samples, seed), {}
    for name in names:
        values, draws = np.array([run[name].value() for run in runs]), np.stack(drawn[name])
        items, share, residual, deviation = float(np.nanvar(draws.mean(axis=0))), 0.0, 0.0, float("nan")
        if len(runs) > 1:
            deviation, residual = float(values.std(ddof=1)), _interaction(draws)
            share = deviation**2 / len(runs)
        variance = items + max(0.0, share - residual)
        videos, error, mean = len(np.unique(runs[0][name].videos)), float(np.sqrt(variance)), float(values.mean())
        shares, seeds = ([share], [len(runs)]) if len(runs) > 1 else ([], [])
        degrees = _degrees(variance, items, videos, shares, seeds)
        half = float(scipy.stats.t.ppf((1 + confidence) / 2, degrees)) * error
        found[name] = SeedMean(mean, mean - half, mean + half, error, deviation, degrees)
    return found


def blocked_effects(
    a: Sequence[Statistics],
    b: Sequence[Statistics],
    samples: int = SAMPLES,
    seed: int = SEED,
    confidence: float = CONFIDENCE,
) -> dict[str, BlockedEffect]:
    """Return the effect on each metric between two settings with the same seeds, or two evaluations of one training.

    Trainings with the same seed share the order of the data and the initial weights of equal layers, and two
    evaluations of one training share its weights. A seed is therefore a block: the effect is the mean over the seeds of
    the difference within a seed, with the variance of `seed_means` for these differences, so that what a seed does to
    both settings cancels (randomized block design; Box, Hunter and Hunter, Statistics for Experimenters, 2005, ch. 4).

    Args:
        a, b: statistics of each training, in the same order of the seeds, of the same items.

    Raises:
        ValueError: their numbers differ.
    """
    differences = [
        {name: _Difference(first[name], second[name]) for name in first if name in second}
        for first, second in zip(a, b, strict=True)
    ]
    found = {}
    for name, mean in seed_means(differences, samples, seed, confidence).items():
        values = [[float(run[name].value()) for run in runs] for runs in (a, b)]
        error = mean.standard_error
        p_value = float(2 * scipy.stats.t.sf(abs(mean.value) / error, mean.degrees)) if error else float(not mean.value)
        first, second = (float(np.mean(some)) for some in values)
        found[name] = BlockedEffect(first, second, mean.low, mean.high, error, p_value)
    return found


def _interaction(draws: Array) -> float:
    """Return the variance of a group's mean from the interaction of videos and seeds.

    Args:
        draws: (S, samples) metric of each training over the draws of the videos.
    """
    deviations = draws - draws.mean(axis=0)
    return float(np.nanvar(deviations, axis=1).mean() / (len(draws) - 1))


def _degrees(total: float, items: float, videos: int, shares: Sequence[float], seeds: Sequence[int]) -> float:
    """Return Satterthwaite's degrees of freedom of a sum of variances."""
    parts = items**2 / max(1, videos - 1)
    parts += sum(share**2 / (count - 1) for share, count in zip(shares, seeds, strict=True))
    return max(1.0, total**2 / parts) if parts else float(max(1, videos - 1))


def _resample(runs: Sequence[Statistics], names: Sequence[str], samples: int, seed: int) -> dict[str, list[Array]]:
    """Return the metrics over the same draws of the videos: by name, an array (samples,) of each run."""
    videos = np.unique(np.concatenate([runs[0][name].videos for name in names])) if names else np.empty(0, dtype=str)
    owners = {name: np.searchsorted(videos, runs[0][name].videos) for name in names}
    parts: dict[str, list[list[Array]]] = {name: [[] for _ in runs] for name in names}
    if len(videos):
        for draws in draw_videos(len(videos), samples, np.random.default_rng(seed)):
            for name in names:
                for number, run in enumerate(runs):
                    parts[name][number].append(run[name].resampled(draws, owners[name]))
    return {name: [np.concatenate(some) for some in of_runs] for name, of_runs in parts.items()}
