"""Arguments and options that several commands share, and the project that they work on."""

from pathlib import Path
from typing import Annotated

import typer

from clipbert.config.tasks import task_names
from clipbert.project import Project


def complete_task(incomplete: str) -> list[str]:
    """Return the tasks whose names start with the text before the cursor, for shell completion."""
    return [task for task in task_names() if task.startswith(incomplete)]


TaskName = Annotated[
    str, typer.Argument(metavar="TASK", help=f"One of: {', '.join(task_names())}.", autocompletion=complete_task)
]
OptionalTask = Annotated[
    str | None,
    typer.Argument(
        metavar="TASK", help=f"One of: {', '.join(task_names())}. Default: all tasks.", autocompletion=complete_task
    ),
]
ParamsFile = Annotated[Path, typer.Option("--params", help="Read the parameters from this file.")]
Set = Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override a parameter. Repeatable.")]
DEFAULT = Path("params.yaml")


def project() -> Project:
    """Return the project in the current folder."""
    return Project(Path.cwd())
