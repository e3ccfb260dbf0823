"""What the verbs of the command line share: the project they work on and the options of most of them."""

from pathlib import Path
from typing import Annotated

import typer

from clipbert.config.schema import TASKS
from clipbert.project import Project

ParamsFile = Annotated[Path, typer.Option("--params", help="The parameter file.")]
Set = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Replace one parameter; may be given again.")
]
DEFAULT = Path("params.yaml")


def complete_task(incomplete: str) -> list[str]:
    """Return the tasks that a shell offers after what is typed already."""
    return [task for task in TASKS if task.startswith(incomplete)]


def project() -> Project:
    """The project in the current folder."""
    return Project(Path.cwd())
