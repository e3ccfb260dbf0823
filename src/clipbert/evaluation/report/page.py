"""Rendering of the report from an evaluation, the curves and the origin of the model."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from clipbert.evaluation.report.champion import Champion, difference
from clipbert.evaluation.report.charts import interval_scale
from clipbert.evaluation.report.figures import learning_curves, task_figures
from clipbert.evaluation.report.groups import Group, confused_answers, results_by_group, top_of_scale
from clipbert.evaluation.report.origin import Origin, facts
from clipbert.evaluation.report.predictions import prediction_rows, to_script
from clipbert.evaluation.run import Evaluation
from clipbert.evaluation.verdict import verdict
from clipbert.files.atomic import atomic_write
from clipbert.frame_cache import FrameCache
from clipbert.pages.page import render_page
from clipbert.tasks import task_class
from clipbert.tasks.batch import Example
from clipbert.tasks.presentation import Headline

TEMPLATE, STYLES, SCRIPT = "report.html.j2", "report.css", "report.js"


@dataclass(frozen=True)
class Training:
    """What a report shows of the training and the data.

    Attributes:
        history, validation: the rows of the training and of its validations.
        main_metric: the metric that chose the epoch.
        origin: data, code and parameters.
        train: the training examples, for the combinations that training has seen.
        videos: the columns media, kind, duration_s and brightness of the manifest.
    """

    history: pd.DataFrame
    validation: pd.DataFrame
    main_metric: str
    origin: Origin
    train: Sequence[Example]
    videos: pd.DataFrame


def write_report(
    evaluation: Evaluation, cache: FrameCache, training: Training, out: Path, champion: Champion | None = None
) -> None:
    """Write the report to `out`: one HTML file with all its pictures, which needs no network."""
    task, items = evaluation.task, evaluation.items
    groups = results_by_group(task, items, training.videos, training.train)
    report = task_class(task).report
    predictions = prediction_rows(task, items, cache, evaluation.frames_per_clip)
    page = render_page(
        "clipbert.evaluation.report",
        TEMPLATE,
        (STYLES,),
        SCRIPT,
        task=task,
        title=report.title,
        name=str(training.origin.run.get("run_name") or ""),
        verdict=verdict(task, items),
        headlines=headlines(task, evaluation.metrics),
        facts=facts(training.origin, training.history, training.validation, training.main_metric),
        difference=difference(task, items, champion),
        curves=learning_curves(training.history, training.validation, training.main_metric),
        figures=task_figures(evaluation),
        groups=_group_rows(task, groups),
        score_name=_score_name(task),
        confusions=confused_answers(items),
        kinds=sorted({row["type"] for row in predictions["rows"]} - {""}),
        outcomes=report.groups,
        shown=len(predictions["rows"]),
        items=len(items),
        pictured=sum("strip" in row for row in predictions["rows"]),
        predictions=to_script(predictions),
        metrics=_all_metrics(evaluation),
        params=sorted(dict(training.origin.run.get("params") or {}).items()),
    )
    with atomic_write(out, "w") as file:
        file.write(page)


def headlines(task: str, metrics: dict[str, float]) -> list[dict[str, Any]]:
    """Return the cards of the report of existing metrics: {name, value, interval, compared_with, scale}.

    `compared_with` has (words, value) pairs; `scale` is a picture of the interval and the baselines, empty for a number
    without an interval.
    """
    return [
        {
            "name": shown.card,
            "value": shown.format(task, metrics, shown.metric),
            "interval": _interval(shown, task, metrics),
            "compared_with": [
                (words, shown.format(task, metrics, metric))
                for words, metric in shown.compared_with
                if f"{task}/{metric}" in metrics
            ],
            "scale": _scale(shown, task, metrics),
        }
        for shown in task_class(task).report.headlines
        if f"{task}/{shown.metric}" in metrics
    ]


def _ends(shown: Headline) -> tuple[str, str]:
    return f"{shown.metric}_ci_low", f"{shown.metric}_ci_high"


def _interval(shown: Headline, task: str, metrics: dict[str, float]) -> str:
    """Return the 95 % interval of a headline, "LOW to HIGH"; empty where it has none."""
    if f"{task}/{_ends(shown)[0]}" not in metrics:
        return ""
    low, high = (shown.format(task, metrics, end) for end in _ends(shown))
    return f"{low.removesuffix(' %')} to {high}"


def _scale(shown: Headline, task: str, metrics: dict[str, float]) -> str:
    low, high = (metrics.get(f"{task}/{end}") for end in _ends(shown))
    if low is None or high is None or not shown.percent:
        return ""
    others = [metrics[f"{task}/{name}"] for _, name in shown.compared_with if f"{task}/{name}" in metrics]
    return interval_scale(metrics[f"{task}/{shown.metric}"], low, high, others, 100.0)


def _score_name(task: str) -> str:
    """Return what the mean score of the items is called, with its unit."""
    shown = task_class(task).report.headlines[0]
    return f"{shown.card} in %" if shown.percent else shown.card


def _group_rows(task: str, groups: Mapping[str, Sequence[Group]]) -> dict[str, list[dict[str, Any]]]:
    report, top = task_class(task).report, top_of_scale(task, groups)

    def row(group: Group) -> dict[str, Any]:
        ends = group.interval
        low, high = (None, None) if ends is None else (ends.low, ends.high)
        return {
            "name": group.name,
            "count": group.items,
            "score": report.score(group.score, unit=False),
            "interval": "" if ends is None else f"{report.points(ends.low)} to {report.points(ends.high)}",
            "blank": "" if group.blank is None else report.points(group.blank),
            "scale": interval_scale(group.score, low, high, [] if group.blank is None else [group.blank], top),
        }

    return {name: [row(group) for group in some] for name, some in groups.items()}


def _all_metrics(evaluation: Evaluation) -> list[tuple[str, float, str]]:
    """Return the name, the value and the interval of all metrics, without the ends of the intervals as such."""
    found = []
    for name, value in evaluation.metrics.items():
        interval = evaluation.intervals.get(name)
        words = "" if interval is None else f"{interval.low:.2f} to {interval.high:.2f}"
        if not name.endswith(("_ci_low", "_ci_high")):
            found.append((name, value, words))
    return found
