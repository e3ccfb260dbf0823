"""The plots of a report: tables that `dvc plots` reads, and the same as SVG."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from clipbert.evaluation.run import Evaluation
from clipbert.files.atomic import atomic_write
from clipbert.tasks import task_class
from clipbert.tasks.presentation import BarPlot, LinePlot

MODEL, BASELINE, GRID = "#2457c5", "#9aa3b2", "#e3e6ec"
STYLES = ("-", "-", ":")  # of the lines of a plot: the model, blank frames, chance
MAX_BARS = 12


def write_tables(evaluation: Evaluation, out: Path) -> None:
    """Write each table of the task's report as a CSV file under `out`."""
    for name, table in _tables(evaluation).items():
        with atomic_write(out / f"{name}.csv", "w") as file:
            table.to_csv(file, index=False)


def task_figure(evaluation: Evaluation) -> tuple[str, str]:
    """Return the title of the task's plot, and the plot as SVG."""
    plot = task_class(evaluation.task).report.plot
    table = _tables(evaluation)[plot.table]
    return plot.title, bars(table) if isinstance(plot, BarPlot) else lines(plot, table)


def lines(plot: LinePlot, table: pd.DataFrame) -> str:
    """Return columns of a table as lines, as SVG."""

    def draw(axes: Any) -> None:
        for number, (column, label) in enumerate(plot.columns.items()):
            width = (2, 1.5, 1)[number]
            color = BASELINE if number else MODEL
            axes.plot(table[plot.x], table[column], color=color, linewidth=width, linestyle=STYLES[number], label=label)
        axes.set(xlabel=plot.xlabel, ylabel=plot.ylabel, ylim=(0, plot.top))
        if plot.log_x:
            axes.set(xscale="log", xlim=(1, table[plot.x].max()))
            ticks = [k for k in (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000) if k <= table[plot.x].max()]
            axes.set_xticks(ticks, [str(k) for k in ticks])
            axes.minorticks_off()
        axes.legend(frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3)

    return svg(draw)


def bars(table: pd.DataFrame) -> str:
    """Return the rows of a table (answer_type, questions, accuracy, blank_frames) as horizontal bars, as SVG."""
    table = table.head(MAX_BARS)[::-1]

    def draw(axes: Any) -> None:
        rows = np.arange(len(table))
        axes.barh(rows + 0.19, table["accuracy"], height=0.36, color=MODEL, label="this model")
        axes.barh(rows - 0.19, table["blank_frames"], height=0.36, color=BASELINE, label="blank frames")
        axes.set_yticks(rows, [f"{row.answer_type} ({row.questions})" for row in table.itertuples()])
        axes.set(xlabel="accuracy, %", xlim=(0, 100))
        axes.legend(frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2)
        axes.grid(axis="y", visible=False)

    return svg(draw)


def training_figure(history: pd.DataFrame, validation: pd.DataFrame, metric: str) -> str:
    """Return the training loss and the validation metric by step, as SVG."""

    def draw(axes: Any) -> None:
        smooth = history["loss"].ewm(span=10).mean()
        axes.plot(history["step"], history["loss"], color=BASELINE, linewidth=0.8, alpha=0.6)
        axes.plot(history["step"], smooth, color=BASELINE, linewidth=2, label="training loss")
        axes.set(xlabel="step", ylabel="loss", ylim=(0, None))
        right = axes.twinx()
        right.plot(
            validation["step"], validation[metric], color=MODEL, linewidth=2, marker="o", markersize=3, label=metric
        )
        top = max(100, 1.05 * validation[metric].max())
        right.set(ylabel=f"validation {metric.split('/')[-1]}", ylim=(0, top))
        right.spines[["top"]].set_visible(False)
        handles = axes.get_legend_handles_labels()[0] + right.get_legend_handles_labels()[0]
        names = ["training loss", f"validation {metric.split('/')[-1]}"]
        axes.legend(handles, names, frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2)

    return svg(draw)


def svg(draw: Callable[[Any], None]) -> str:
    """Return a plot as an SVG element that scales to its container; the same input gives the same bytes."""
    import warnings

    import matplotlib
    from matplotlib.figure import Figure

    style: Any = {"font.size": 9, "font.family": "sans-serif", "svg.fonttype": "none", "svg.hashsalt": "clipbert"}
    with matplotlib.rc_context(style), warnings.catch_warnings():
        # The SVG keeps text as text: a browser has fonts for scripts that matplotlib's font lacks.
        warnings.filterwarnings("ignore", r"(?s).*missing from font")
        warnings.filterwarnings("ignore", r"(?s).*Matplotlib currently does not support")
        figure = Figure(figsize=(5.6, 3.2), layout="constrained")
        axes = figure.add_subplot()
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(color=GRID, linewidth=0.8)
        axes.set_axisbelow(True)
        draw(axes)
        file = io.StringIO()
        figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None}, transparent=True)
    text = file.getvalue()
    return text[text.index("<svg") :]


def _tables(evaluation: Evaluation) -> dict[str, pd.DataFrame]:
    return task_class(evaluation.task).report.tables(evaluation.items, evaluation.blank_items)
