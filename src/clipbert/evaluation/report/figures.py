"""The charts of a report: learning curves, the plot of the task, and the ranks or scores of the test items."""

from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from clipbert.evaluation.plots import tables
from clipbert.evaluation.report.charts import STYLES, Line, column_chart, line_chart, sample
from clipbert.evaluation.run import Evaluation
from clipbert.tasks import task_class
from clipbert.tasks.presentation import BarPlot

SMOOTHED = 10  # rows of the history over which the training loss is averaged
RANK_ENDS = (1, 2, 3, 5, 10, 20, 50, 100)
COLUMNS = 10  # of the histogram of scores


@dataclass(frozen=True)
class Figure:
    """A chart with its title, and for each line its sample and its name."""

    title: str
    svg: str
    legend: list[tuple[str, str]] = field(default_factory=list)


def learning_curves(history: pd.DataFrame, validation: pd.DataFrame, metric: str) -> list[Figure]:
    """Return the training loss and the validation metric by step; none of a training without steps."""
    found = []
    if len(history):
        loss = history["loss"].astype(float)
        lines = [Line("mean of 10 records", history["step"], loss.ewm(span=SMOOTHED).mean())]
        lines.append(Line("training loss", history["step"], loss))
        found.append(_lines("Training loss", lines, "step", "loss"))
    if len(validation) and metric in validation:
        values = validation[metric].astype(float)
        name = metric.partition("/")[2].replace("_", " ")
        best = int(values.to_numpy().argmax())
        mark = float(validation["step"].iloc[best]), float(values.iloc[best])
        top = 100.0 if values.max() <= 100 else None
        svg = line_chart([Line(name, validation["step"], values)], "step", name, top=top, mark=mark)
        found.append(Figure(f"Validation {name}: best {mark[1]:.1f} at step {mark[0]:.0f}", svg))
    return [figure for figure in found if figure.svg]


def task_figures(evaluation: Evaluation) -> list[Figure]:
    """Return the plot of the task, if it has lines, and the histogram of ranks or scores."""
    plot = task_class(evaluation.task).report.plot
    found = []
    if not isinstance(plot, BarPlot):
        table = tables(evaluation)[plot.table]
        lines = [Line(label, table[plot.x], table[column]) for column, label in plot.columns.items()]
        found.append(_lines(plot.title, lines, plot.xlabel, plot.ylabel, top=plot.top, log_x=plot.log_x))
    return [*found, *_histogram(evaluation.task, evaluation.items)]


def rank_counts(ranks: "pd.Series[float]") -> dict[str, int]:
    """Return how many 1-based ranks are in each range, by its label; ranks that are not known are "none"."""
    known = np.ceil(ranks.dropna().to_numpy(dtype=float))
    found, start = {}, 1
    for end in RANK_ENDS:
        if start > known.max(initial=1):
            break
        found[str(end) if end == start else f"{start}-{end}"] = int(((known >= start) & (known <= end)).sum())
        start = end + 1
    if (more := int((known >= start).sum())) > 0:
        found[f">{start - 1}"] = more
    if missing := int(ranks.isna().sum()):
        found["none"] = missing
    return found


def _histogram(task: str, items: pd.DataFrame) -> list[Figure]:
    for column, title, xlabel, ylabel in (
        ("rank", "Ranks of the right videos", "rank", "captions"),
        ("answer_rank", "Ranks of the right answers", "rank", "questions"),
    ):
        if column in items:
            counts = rank_counts(items[column])
            return [Figure(title, column_chart(list(counts), list(counts.values()), xlabel, ylabel))]
    report = task_class(task).report
    if report.score_scale == 1:
        return []
    scores = 100 * report.score_scale * items["score"].to_numpy(dtype=float)
    heights, edges = np.histogram(scores, COLUMNS, (0, max(1.0, float(scores.max()))))
    labels = [f"{edge:.0f}" for edge in edges[:-1]]
    name = report.score_unit.strip()
    return [Figure(f"{name} of the test videos", column_chart(labels, heights.tolist(), f"{name}, from", "videos"))]


def _lines(
    title: str, lines: list[Line], xlabel: str, ylabel: str, top: float | None = None, log_x: bool = False
) -> Figure:
    legend = [(sample(style), line.name) for style, line in zip(STYLES, lines, strict=False)]
    return Figure(title, line_chart(lines, xlabel, ylabel, top=top, log_x=log_x), legend)
