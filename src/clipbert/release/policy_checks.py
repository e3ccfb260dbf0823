"""Checks of a promotion policy: the main metric, guard metrics, test size, cost and size."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pandas as pd

from clipbert.config.promotion import POLICY, LimitsPolicy, TaskPolicy
from clipbert.errors import ClipBertError
from clipbert.evaluation.comparison.source import format_cost
from clipbert.evaluation.promotion_tests import (
    MIN_TYPE_ITEMS,
    Difference,
    compare_metrics,
    compare_scores,
    metric_statistics,
    paired_test,
    question_type_metrics,
    score_metric,
)
from clipbert.release.verdict import Check, Headline
from clipbert.tasks import task_class


def main_difference(task: str, policy: TaskPolicy, items: pd.DataFrame, other: pd.DataFrame, seed: int) -> Difference:
    """Return the main metric of a candidate and its champion on the same items, with the task's paired test.

    Raises:
        ClipBertError: the policy names a metric that the task does not have.
    """
    metric = policy.metric or score_metric(task)
    samples, confidence = policy.bootstrap_samples, policy.confidence
    if metric == score_metric(task):
        found = compare_scores(task, items, other["score"], samples, seed, confidence)
    else:
        check_metric(task, "metric", metric, items)
        found = compare_metrics(task, [metric], items, other, samples, seed, confidence)[metric]
    test = paired_test(task, items, other)
    return replace(found, p_value=test.p_value, test=test.name)


def check_metric(task: str, field: str, metric: str, items: pd.DataFrame) -> None:
    """Check that predictions have a metric that the policy names.

    Raises:
        ClipBertError: they do not; the message names the field and the known metrics.
    """
    known = metric_statistics(task, items)
    if metric not in known:
        raise ClipBertError(
            f"{POLICY}: {field}: {task} has no metric {metric!r} with an interval. Expected one of "
            f"{', '.join(sorted(known))}."
        )


def main_check(task: str, policy: TaskPolicy, found: Difference, against_baseline: bool) -> Check:
    """Check the main metric: by its interval, the paired test, or both.

    Args:
        against_baseline: the other is a trivial baseline, which has no minimum improvement and only an interval.
    """
    needed = 0.0 if against_baseline else policy.min_improvement
    test = "interval" if against_baseline else policy.test
    gain, low, _ = found.gain
    by_interval = low > needed  # False without an interval
    by_test = gain > needed and found.p_value is not None and found.p_value < 1 - policy.confidence
    passed = {"interval": by_interval, "paired": by_test, "both": by_interval and by_test}[test]
    above = f"{'above' if found.sign > 0 else 'better by more than'} {needed:g}"
    required = {
        "interval": f"the interval must lie {above}",
        "paired": f"the difference must be {above}, with p < {1 - policy.confidence:.3g}",
        "both": f"the interval must lie {above}, with p < {1 - policy.confidence:.3g}",
    }[test]
    return Check(
        "main_metric",
        metric_title(task, found.metric),
        "passed" if passed else "failed",
        f"{difference_words(task, found, policy.confidence)}, {found.test} {p_words(found.p_value)}",
        required,
        difference_numbers(found),
    )


def size_checks(policy: TaskPolicy, items: pd.DataFrame) -> list[Check]:
    """Check the numbers of test items and videos."""
    videos = items["media"].nunique() if "media" in items else len(items)
    found = []
    for name, count, fewest in (
        ("items", len(items), policy.min_test_items),
        ("videos", videos, policy.min_test_videos),
    ):
        words = f"fewer than {fewest} {name} are too few to compare models"
        found.append(
            Check(
                f"test_{name}",
                f"test {name}",
                "passed" if count >= fewest else "failed",
                f"{count:,}" if count >= fewest else f"{count}: {words}",
                f"at least {fewest}",
                {"count": count},
                f"Add test videos, or lower min_test_{name} in {POLICY}.",
            )
        )
    return found


def guard_checks(
    task: str, policy: TaskPolicy, items: pd.DataFrame, other: pd.DataFrame | None, seed: int
) -> list[Check]:
    """Check the metrics that may not fall; the confidence of their intervals is shared (Bonferroni).

    Args:
        other: the champion's predictions of the same items; None without a champion.

    Raises:
        ClipBertError: the policy names a metric that the task does not have, or a question type where there is none.
    """
    for metric in policy.guards:
        check_metric(task, f"guards.{metric}", metric, items)
    types = {} if policy.max_type_drop is None else question_type_metrics(items)
    allowed = {**dict.fromkeys(types, policy.max_type_drop), **policy.guards}
    allowed_drops = {metric: drop for metric, drop in allowed.items() if drop is not None}
    found = []
    if policy.max_type_drop is not None and not types:
        found.append(
            Check(
                "guard.types",
                "question types",
                "skipped",
                "the questions have one type or none",
                f"no type falls by more than {policy.max_type_drop:g}",
            )
        )
    judged = [metric for metric in allowed_drops if types.get(metric, MIN_TYPE_ITEMS) >= MIN_TYPE_ITEMS]
    differences: dict[str, Difference] = {}
    level = 1 - (1 - policy.confidence) / max(1, len(judged))
    if other is not None and judged:
        differences = compare_metrics(task, judged, items, other, policy.bootstrap_samples, seed, level)
    for metric, drop in allowed_drops.items():
        difference = differences.get(metric)
        reason = ""
        if other is None:
            reason = "no champion yet"
        elif metric not in judged:
            reason = f"{types[metric]} questions: fewer than {MIN_TYPE_ITEMS} are not judged"
        elif difference is None:
            reason = "the champion's predictions do not have it"
        found.append(_guard(task, policy, metric, drop, difference, level, reason))
    return found


def limit_checks(limits: LimitsPolicy, cost: Mapping[str, float], champion: Mapping[str, float] | None) -> list[Check]:
    """Check the cost and the size that the evaluation measured.

    Args:
        cost: of the candidate, by the keys of `recorded_cost`: ms_per_item, parameters, model_mb.
        champion: of the champion; None without one.
    """
    found = []
    for name, key, title in (
        ("max_ms_per_item", "ms_per_item", "time per item"),
        ("max_parameters", "parameters", "parameters"),
        ("max_model_mb", "model_mb", "size of the model"),
    ):
        limit = getattr(limits, name)
        if limit is not None:
            found.append(_limit(name, key, title, cost.get(key), limit, cost_words(key, limit)))
    if limits.max_slowdown is not None:
        name, title = "max_slowdown", "time per item compared with the champion's"
        if champion is None:
            found.append(
                Check(f"limit.{name}", title, "skipped", "no champion yet", f"at most {limits.max_slowdown:g} times")
            )
        else:
            own, other = cost.get("ms_per_item"), champion.get("ms_per_item")
            ratio = None if own is None or not other else own / other
            found.append(_limit(name, name, title, ratio, limits.max_slowdown, f"{limits.max_slowdown:g} times"))
    return found


def headline_rows(
    task: str,
    policy: TaskPolicy,
    registered: Sequence[Mapping[str, float]],
    items: pd.DataFrame,
    other: pd.DataFrame | None,
    seed: int,
    main: Difference | None = None,
) -> list[Headline]:
    """Return the headline metrics of the candidate and the champion, with their differences and intervals.

    Args:
        registered: metrics of the candidate and the champion in the registry, by their names after `TASK/`; they fill
            in what the predictions do not have.
        main: of the main metric, whose numbers are those of its check.
    """
    shown = task_class(task).report.headlines
    differences: dict[str, Difference] = {}
    if other is not None:
        try:
            names = [one.metric for one in shown]
            differences = compare_metrics(task, names, items, other, policy.bootstrap_samples, seed, policy.confidence)
        except ClipBertError:
            differences = {}
        if main is not None:
            differences[main.metric] = main
    rows = []
    for one in shown:
        found = differences.get(one.metric)
        own, against = (values.get(one.metric) for values in registered)
        if found is not None:
            own, against = found.candidate, found.other
        if own is None:
            continue
        rows.append(
            Headline(
                one.card,
                one.format("", {"/": own}, ""),
                "" if against is None else one.format("", {"/": against}, ""),
                "" if found is None else f"{found.difference:+.1f}{' points' if one.percent else ''}",
                "" if found is None or math.isnan(found.low) else f"{found.low:+.1f} to {found.high:+.1f}",
            )
        )
    return rows


def metric_title(task: str, metric: str) -> str:
    """Return the name of a metric for a reader."""
    return next((one.card for one in task_class(task).report.headlines if one.metric == metric), metric)


def difference_words(task: str, found: Difference, confidence: float, title: str = "") -> str:
    """Return a difference as "+30.0 points of R@1 on 60 test items, 95% interval +18.3 to +41.7".

    Args:
        title: the metric for a reader; empty leaves it out.
    """
    unit = "" if _is_plain(task, found.metric) else " points"
    unit += f" of {title}" if title else ""
    interval = "no interval" if math.isnan(found.low) else f"interval {found.low:+.1f} to {found.high:+.1f}"
    level = f"{100 * confidence:.4g}%"
    return f"{found.difference:+.1f}{unit} on {found.items} test items, {level} {interval}"


def difference_numbers(found: Difference) -> dict[str, Any]:
    """Return the numbers of a difference; those that are not finite are None."""
    values: dict[str, Any] = {**vars(found), "difference": found.difference, "seeds": list(found.seeds)}
    return {key: None if isinstance(value, float) and math.isnan(value) else value for key, value in values.items()}


def p_words(value: float | None) -> str:
    """Return a p-value for a reader."""
    return "" if value is None else f"p = {value:.2g}"


def cost_words(key: str, value: float | None) -> str:
    """Return a cost or a size for a reader."""
    if value is None:
        return "not recorded"
    if key == "model_mb":
        return f"{value:.3g} MB"
    return f"{value:.3g} times" if key == "max_slowdown" else format_cost(key, value)


def _guard(
    task: str, policy: TaskPolicy, metric: str, drop: float, found: Difference | None, level: float, reason: str
) -> Check:
    title = metric_title(task, metric)
    by_interval = policy.guard_test == "interval"
    required = f"{'the interval' if by_interval else 'the difference'} must reach {0.0 - drop:+g}".replace("-0", "0")
    if found is not None and by_interval and math.isnan(found.high):
        reason = "one test video gives no interval"
    if found is None or reason:
        return Check(f"guard.{metric}", title, "skipped", reason, required)
    gain, _, high = found.gain
    fell = (high if by_interval else gain) < -drop
    words = difference_words(task, found, level)
    return Check(f"guard.{metric}", title, "failed" if fell else "passed", words, required, difference_numbers(found))


def _limit(name: str, key: str, title: str, value: float | None, limit: float, words: str) -> Check:
    outcome = "passed" if value is not None and value <= limit else "failed"
    return Check(
        f"limit.{name}",
        title,
        outcome,  # type: ignore[arg-type]
        cost_words(key, value),
        f"at most {words}",
        {"value": value, "limit": limit},
        "Evaluate and register the model with this version of clipbert." if value is None else "",
    )


def _is_plain(task: str, metric: str) -> bool:
    """Return whether a metric is not a percentage."""
    shown = next((one for one in task_class(task).report.headlines if one.metric == metric), None)
    return not shown.percent if shown is not None else metric.endswith("_rank")
