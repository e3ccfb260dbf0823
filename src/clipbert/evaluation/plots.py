"""The tables behind the plots of a report, which `dvc plots` reads."""

from pathlib import Path

import pandas as pd

from clipbert.evaluation.run import Evaluation
from clipbert.files.atomic import atomic_write
from clipbert.tasks import task_class


def write_tables(evaluation: Evaluation, out: Path) -> None:
    """Write each table of the task's report as a CSV file under `out`."""
    for name, table in tables(evaluation).items():
        with atomic_write(out / f"{name}.csv", "w") as file:
            table.to_csv(file, index=False)


def tables(evaluation: Evaluation) -> dict[str, pd.DataFrame]:
    """Return the tables of the task's report by file name."""
    return task_class(evaluation.task).report.tables(evaluation.items, evaluation.blank_items)
