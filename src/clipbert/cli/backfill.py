"""`clipbert backfill`: metrics of registered versions on today's test items."""

from typing import Annotated

import typer

from clipbert import stages
from clipbert.cli.options import DEFAULT, ParamsFile, Set, TaskName, project
from clipbert.config.load import load_params
from clipbert.config.tasks import check_task

backfilling = typer.Typer(rich_markup_mode="markdown")


@backfilling.command(epilog="Example: `clipbert backfill retrieval 3 4`", rich_help_panel="Release")
def backfill(
    task: TaskName,
    versions: Annotated[
        list[str] | None, typer.Argument(metavar="[VERSION]...", help="Numbers of versions. Default: all.")
    ] = None,
    params: ParamsFile = DEFAULT,
    overrides: Set = None,
    again: Annotated[bool, typer.Option("--again", help="Evaluate also what was evaluated on today's data.")] = False,
) -> None:
    """Evaluate registered versions on today's test items, so that their metrics can be compared.

    Results are in artifacts/backfill/TASK/; a version that was evaluated on the same data is not evaluated again.
    """
    stages.backfill(project(), check_task(task), load_params(params, overrides), versions or [], again)
