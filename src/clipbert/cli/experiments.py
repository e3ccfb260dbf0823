"""Table of a project's experiments: changed parameters, test and validation metric, cost."""

from collections.abc import Callable
from typing import Any

from rich import box
from rich.table import Table

from clipbert.config.fields import short_name
from clipbert.console import console
from clipbert.dashboard.experiments import Experiment
from clipbert.durations import format_rough_duration

WIDTH = 120
NOTHING = "-"
# What --sort accepts: the key, and whether the largest comes first.
SORTS: dict[str, tuple[Callable[[Experiment], Any], bool]] = {
    "validation": (lambda one: one.validation, True),
    "test": (lambda one: one.test, True),
    "cost": (lambda one: one.seconds, False),
    "created": (lambda one: one.created, True),
    "name": (lambda one: one.name.lower(), False),
}


def sorted_by(experiments: list[Experiment], sort: str) -> list[Experiment]:
    """Return the experiments in the order of `--sort`; those without the value come last."""
    key, descending = SORTS[sort]
    known = [one for one in experiments if key(one) is not None]
    return [*sorted(known, key=key, reverse=descending), *(one for one in experiments if key(one) is None)]


def print_experiments(experiments: list[Experiment], tasks: list[str], sort: str) -> None:
    """Print one table for each task, at most 120 columns wide."""
    shown = [task for task in tasks if any(one.task == task for one in experiments)]
    if not shown:
        console.print(
            f"No experiment of {', '.join(tasks)} has been evaluated yet. Run one: "
            "`dvc exp run --name slower -S train.lr=0.0005`."
        )
        return
    for task in shown:
        rows = sorted_by([one for one in experiments if one.task == task], sort)
        table = Table(title=task, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
        table.add_column("experiment", overflow="fold", min_width=10)
        table.add_column("changed parameters", overflow="fold")
        table.add_column(f"validation\n{rows[0].validation_metric}", justify="right", no_wrap=True)
        table.add_column(f"test\n{rows[0].metric}", justify="right", no_wrap=True, style="bold")
        table.add_column("test 95 %\ninterval", justify="right", no_wrap=True)
        table.add_column("training\ntime", justify="right", no_wrap=True)
        table.add_column("\nTFLOP", justify="right", no_wrap=True)
        for one in rows:
            interval = NOTHING if one.low is None or one.high is None else f"{one.low:.1f} to {one.high:.1f}"
            table.add_row(
                one.name if one.state == "finished" else f"{one.name} ({one.state})",
                describe_changes(one.changes, one.task) or NOTHING,
                _number(one.validation),
                _number(one.test),
                interval,
                NOTHING if one.seconds is None else format_rough_duration(one.seconds),
                NOTHING if one.tflop is None else f"{one.tflop:.3g}",
            )
        console.print(table, width=min(WIDTH, console.width))
    console.print(
        "Choose by the validation metric: the best of many by the test metric looks better than it is.",
        style="dim",
    )


def describe_changes(changes: dict[str, Any], task: str) -> str:
    """Return changed parameters as "lr=0.0005, negatives=1"."""
    return ", ".join(
        f"{short_name(name, task)}={'null' if value is None else value}" for name, value in changes.items()
    )


def _number(value: float | None) -> str:
    return NOTHING if value is None else f"{value:.1f}"
