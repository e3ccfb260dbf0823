"""`clipbert track`: what trainings have measured that MLflow does not have yet, and where its store keeps files."""

from typing import Annotated

import typer

from clipbert.cli.options import project
from clipbert.config.schema import TASKS, check_task

track = typer.Typer(no_args_is_help=True, help="Deliver what waits for MLflow; correct its store's paths.")


@track.command(epilog="Example: `clipbert track sync retrieval`")
def sync(
    task: Annotated[
        str | None, typer.Argument(metavar="[TASK]", help=f"One of: {', '.join(TASKS)}; without it, all.")
    ] = None,
) -> None:
    """Deliver to MLflow what waits on this disk since its server went away: in order, and each value once.

    Exits with 0 when nothing is left, with 2 and the reason when something is.
    """
    from clipbert.release.delivery import sync

    sync(project().root, None if task is None else check_task(task))


@track.command(epilog="Example: `clipbert track relocate`")
def relocate() -> None:
    """Correct the paths in the embedded MLflow store after the project's folder was moved, renamed or copied."""
    from clipbert.console import console
    from clipbert.release.relocate import relocate

    console.print(relocate(project().root).text, markup=False)
