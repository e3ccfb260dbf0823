"""Tests of the promotion gate: the main metric of a candidate, and the metrics that may not fall."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from clipbert.config.tasks import TasksParams
from clipbert.errors import ClipBertError
from clipbert.evaluation.compare import paired_bootstrap
from clipbert.evaluation.comparison.effects import paired_effects, seed_effects
from clipbert.evaluation.comparison.paired_tests import PairedTest, mcnemar, wilcoxon
from clipbert.evaluation.metrics.answers import type_names
from clipbert.evaluation.metrics.intervals import Statistic
from clipbert.tasks import make_task, task_class

LOWER_IS_BETTER = ("median_rank", "mean_rank")  # how the names of such metrics end
BOOTSTRAP = "paired bootstrap"
MIN_TYPE_ITEMS = 20  # of a question type; the accuracy of fewer is not judged


@dataclass(frozen=True)
class Difference:
    """A metric of a candidate and of what it is compared with.

    Attributes:
        metric: its name after `TASK/`.
        candidate, other: in the unit of the metric, points for a percentage.
        low, high: the ends of the interval of candidate - other; NaN without an interval.
        p_value: two-sided, for the hypothesis that the models do not differ; None where only an interval is computed.
        test: the name of the test with this p-value.
        items: number of test items.
        seeds: trainings of the candidate and of the other whose variation is in the interval; (1, 1) for none.
    """

    metric: str
    candidate: float
    other: float
    low: float
    high: float
    items: int
    p_value: float | None = None
    test: str = BOOTSTRAP
    seeds: tuple[int, int] = (1, 1)

    @property
    def difference(self) -> float:
        """The candidate's value minus the other's."""
        return self.candidate - self.other

    @property
    def sign(self) -> int:
        """-1 for a metric of which less is better, else 1."""
        return -1 if self.metric.endswith(LOWER_IS_BETTER) else 1

    @property
    def gain(self) -> tuple[float, float, float]:
        """The difference and the ends of its interval, positive where the candidate is better."""
        ends = sorted((self.sign * self.low, self.sign * self.high))
        return self.sign * self.difference, ends[0], ends[1]


def score_metric(task: str) -> str:
    """Return the name of a task's mean score, such as r1 or accuracy."""
    return task_class(task).evaluator_class.score_metric


def score_scale(task: str) -> float:
    """Return the factor from an item's score to the unit of the mean score: 100 for a percentage."""
    return 100 * task_class(task).report.score_scale


def metric_statistics(task: str, items: pd.DataFrame) -> dict[str, Statistic]:
    """Return the metrics of predictions that have an interval, by their names after `TASK/`.

    Raises:
        ClipBertError: the predictions lack a column.
    """
    evaluator = make_task(task, TasksParams()).evaluator
    try:
        found = evaluator.statistics(items.reset_index(drop=True))
    except KeyError as error:
        raise ClipBertError(
            f"The predictions of {task} lack the column {error}: an older version of clipbert made them. Evaluate and "
            f"register the model again: `clipbert evaluate {task}`, then `clipbert register {task}`."
        ) from error
    return {name.removeprefix(f"{task}/"): statistic for name, statistic in found.items()}


def question_type_metrics(items: pd.DataFrame) -> dict[str, int]:
    """Return the metric of each question type with its number of items; empty for one type or none."""
    if "answer_type" not in items:
        return {}
    counts = items["answer_type"].value_counts()
    return {name: int(counts[kind]) for kind, name in type_names(items["answer_type"].to_numpy()).items()}


def compare_scores(
    task: str, items: pd.DataFrame, other: pd.Series, samples: int, seed: int, confidence: float
) -> Difference:
    """Compare the mean score of the test items with that of another model or a baseline, over draws of the videos.

    Args:
        items: the predictions of the candidate.
        other: scores of the same items in the same order.

    Raises:
        ValueError: a score is not a finite number.
    """
    found = paired_bootstrap(items["score"], other, samples, seed, confidence, _videos(items))
    scale, own = score_scale(task), items["score"].to_numpy(dtype=float)
    return Difference(
        metric=score_metric(task),
        candidate=scale * float(own.mean()),
        other=scale * float(other.to_numpy(dtype=float).mean()),
        low=scale * found.low,
        high=scale * found.high,
        items=found.items,
        p_value=found.p_value,
    )


def compare_metrics(
    task: str,
    metrics: Sequence[str],
    items: pd.DataFrame,
    other: pd.DataFrame,
    samples: int,
    seed: int,
    confidence: float,
) -> dict[str, Difference]:
    """Compare metrics of two models on the same test items, over draws of the videos.

    Args:
        metrics: names after `TASK/`; those that the predictions do not have are left out.

    Raises:
        ClipBertError: the predictions lack a column.
    """
    own, others = metric_statistics(task, items), metric_statistics(task, other)
    chosen = [name for name in metrics if name in own and name in others]
    one, two = ({name: some[name] for name in chosen} for some in (others, own))
    effects = paired_effects(one, two, samples, seed, confidence)
    return {
        name: Difference(name, effect.b, effect.a, effect.low, effect.high, _count(own[name]))
        for name, effect in effects.items()
    }


def compare_seeds(
    task: str,
    metric: str,
    candidates: Sequence[pd.DataFrame],
    others: Sequence[pd.DataFrame],
    samples: int,
    seed: int,
    confidence: float,
) -> Difference:
    """Compare a metric of two groups of trainings that differ in the seed; the interval includes the seeds' noise.

    Args:
        candidates, others: predictions of at least two trainings each, of the same items in the same order.

    Raises:
        ClipBertError: the predictions lack a column or the metric.
    """

    def statistics(tables: Sequence[pd.DataFrame]) -> list[Mapping[str, Statistic]]:
        return [{metric: metric_statistics(task, items)[metric]} for items in tables]

    effect = seed_effects(statistics(others), statistics(candidates), samples, seed, confidence)[metric]
    return Difference(
        metric,
        effect.b,
        effect.a,
        effect.low,
        effect.high,
        len(candidates[0]),
        effect.p_value,
        "t test over items and seeds",
        (len(candidates), len(others)),
    )


def paired_test(task: str, items: pd.DataFrame, other: pd.DataFrame) -> PairedTest:
    """Return the task's paired test of the candidate against another model, as `clipbert compare` does it.

    Predictions without the column of the test, such as the rank of retrieval, are compared by their scores.
    """
    report = task_class(task).report
    column = report.paired_column if report.paired_column in items and report.paired_column in other else "score"
    a, b = (table[column].to_numpy(dtype=float) for table in (other, items))
    if column == "score" and np.isin(a, (0, 1)).all() and np.isin(b, (0, 1)).all():
        return mcnemar(a, b, _videos(items))
    return wilcoxon(a, b, _videos(items), column == report.paired_column and report.paired_lower_is_better)


def _videos(items: pd.DataFrame) -> NDArray[np.str_]:
    names: ArrayLike = items.get("media", items.index)
    return np.asarray(names).astype(str)


def _count(statistic: Statistic) -> int:
    return len(statistic.videos)
