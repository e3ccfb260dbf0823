"""The command `study`: a grid of trainings under one budget, and the cheapest setting that is good enough."""

from pathlib import Path
from typing import Annotated

import typer

from clipbert import stages
from clipbert.cli.options import DEFAULT, ParamsFile, TaskName, project
from clipbert.cli.release import PANEL
from clipbert.config.load import load_params
from clipbert.config.tasks import check_task

studying = typer.Typer(rich_markup_mode="markdown")


@studying.command(epilog="Example: `clipbert study --grid recipes/study/sample.yaml --dry-run`", rich_help_panel=PANEL)
def study(
    grid: Annotated[Path, typer.Option(metavar="FILE", help="The grid of trainings.")] = stages.DEFAULT_GRID,
    jobs: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Trainings at a time. Default: one for each GPU, else one.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List the trainings and the expected time.")] = False,
    params: ParamsFile = DEFAULT,
) -> None:
    """Train a grid of settings with several seeds under one budget, and find the cheapest that is good enough.

    Each training is a DVC experiment and a nested MLflow run. A stopped study continues where it was.
    """
    raise typer.Exit(stages.study(project(), load_params(params), params, grid, jobs, dry_run))


@studying.command(
    "study-point", hidden=True, epilog="Example: `clipbert study-point retrieval --out artifacts/point --clips 1,4`"
)
def study_point(
    task: TaskName,
    out: Annotated[Path, typer.Option(help="Folder to write.")],
    clips: Annotated[str, typer.Option(help="Numbers of clips, as 1,2,4.")],
    aggregations: Annotated[str, typer.Option(help="Score aggregations, as lse,mean.")] = "",
    params: ParamsFile = DEFAULT,
) -> None:
    """Evaluate a trained model on the validation split with several settings; `clipbert study` runs this."""
    numbers, names = [int(one) for one in clips.split(",")], [one for one in aggregations.split(",") if one]
    stages.study_point(project(), check_task(task), load_params(params), numbers, names, out)
