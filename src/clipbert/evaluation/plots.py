"""The tables that `dvc plots` draws, and those behind the plots of a report."""

from pathlib import Path

import pandas as pd

from clipbert.evaluation.run import Evaluation
from clipbert.files.atomic import atomic_write
from clipbert.tasks import task_class
from clipbert.tasks.presentation import BarPlot

MAX_BARS = 12
SHOWN_K = (1, 2, 5, 10, 20, 50, 100)
SHOWN_SHARES = (10, 25, 50, 75, 90)


def write_charts(
    evaluation: Evaluation, history: pd.DataFrame, validation: pd.DataFrame, main_metric: str, out: Path
) -> None:
    """Write the tables of `dvc plots` under `out`, the same four for every task (dvc.yaml names them).

    `loss.csv` (step, loss), `validation.csv` (step, and the metric that chooses the epoch), `test.csv` (the first
    headline of the report and what it is compared with) and `breakdown.csv` (the score by question type, rank, ...).
    """
    charts = {
        "loss": history[["step", "loss"]],
        "validation": validation[["step", main_metric]].rename(columns={main_metric: "validation"}),
        "test": _test_table(evaluation),
        "breakdown": _breakdown(evaluation),
    }
    for name, table in charts.items():
        with atomic_write(out / f"{name}.csv", "w") as file:
            table.to_csv(file, index=False)


def _test_table(evaluation: Evaluation) -> pd.DataFrame:
    """Return name and score of the first headline and of what it is compared with."""
    headline = task_class(evaluation.task).report.headlines[0]
    named = [("this model", headline.metric), *headline.compared_with]
    rows = [
        (f"{headline.card}, {name}", evaluation.metrics[f"{evaluation.task}/{metric}"])
        for name, metric in named
        if f"{evaluation.task}/{metric}" in evaluation.metrics
    ]
    return pd.DataFrame(rows, columns=["name", "score"])


def _breakdown(evaluation: Evaluation) -> pd.DataFrame:
    """Return name and score of the parts that the report's plot shows; of a curve, of some of its points."""
    plot = task_class(evaluation.task).report.plot
    table = tables(evaluation)[plot.table]
    if isinstance(plot, BarPlot):
        rows = [(f"{row.answer_type} ({row.questions})", row.accuracy) for row in table.head(MAX_BARS).itertuples()]
    else:
        values = table[next(iter(plot.columns))].to_numpy()
        if plot.log_x:
            points = [(f"{plot.x} = {k}", k - 1) for k in SHOWN_K if k <= len(table)]
        else:
            points = [(f"at {share} % of the ranking", share * (len(table) - 1) // 100) for share in SHOWN_SHARES]
        rows = [(name, float(values[index])) for name, index in points]
    return pd.DataFrame(rows, columns=["name", "score"])


def tables(evaluation: Evaluation) -> dict[str, pd.DataFrame]:
    """Return the tables of the task's report by file name."""
    return task_class(evaluation.task).report.tables(evaluation.items, evaluation.blank_items)
