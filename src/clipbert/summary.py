"""The end of `make run`: what was reached, beside chance and the trivial baseline, and where to look."""

import json
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table

from clipbert.console import console
from clipbert.errors import ClipBertError
from clipbert.params import TASKS
from clipbert.stages import Project
from clipbert.tasks.headlines import HEADLINES


def print_summary(project: Project) -> None:
    """Print metrics, versions and places.

    Raises:
        ClipBertError: nothing was evaluated yet.
    """
    tasks = [task for task in TASKS if project.metrics(task).exists()]
    if not tasks:
        raise ClipBertError(f"{project.artifacts / 'metrics'}: nothing was evaluated yet; run `dvc repro` first.")
    table = Table(title="Test split", title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("metric")
    table.add_column("this model", justify="right", style="bold")
    table.add_column("chance or majority", justify="right")
    table.add_column("blank frames", justify="right")
    for task in tasks:
        metrics = _json(project.metrics(task))
        for shown in HEADLINES[task]:
            if shown.row is not None:
                keys = [shown.metric, *(metric for _, metric in shown.beside[:2])]
                table.add_row(shown.row, *(f"{metrics[f'{task}/{key}']:.1f}" for key in keys))
    console.print(table)
    versions = Table(
        title="Registered models", title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False
    )
    for column in ("name", "version", "alias", "next"):
        versions.add_column(column)
    for task in tasks:
        if project.release(task).exists():
            release = _json(project.release(task))
            versions.add_row(release["name"], str(release["version"]), release["alias"], f"clipbert promote {task}")
    console.print(versions)
    console.print("[bold]Where to look[/bold]")
    places = [
        *((f"{task} report", _relative(project, project.report(task))) for task in tasks),
        ("validation pages", _relative(project, project.validation / "index.html")),
        ("metrics, plots", "dvc metrics show    dvc plots show"),
        ("MLflow and Prefect", "make ui"),
    ]
    width = max(len(name) for name, _ in places)
    for name, place in places:
        console.print(f"  {name:<{width}}  {place}", markup=False)


def _json(path: Path) -> dict[str, Any]:
    try:
        value: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ClipBertError(f"{path}: cannot be read ({error}); run `dvc repro` to make it again.") from error
    return value


def _relative(project: Project, path: Path) -> str:
    return str(path.relative_to(project.root))
