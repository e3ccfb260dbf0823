"""Commands for registered models: promote, rollback, history, and delivery to MLflow."""

import json
from typing import TYPE_CHECKING, Annotated

import typer

from clipbert import stages
from clipbert.cli.options import DEFAULT, OptionalTask, ParamsFile, Set, TaskName, project
from clipbert.config.load import load_params
from clipbert.config.tasks import check_task
from clipbert.console import console

if TYPE_CHECKING:
    from rich.table import Table

    from clipbert.release.history import Event

release = typer.Typer(rich_markup_mode="markdown")
track = typer.Typer(
    no_args_is_help=True, rich_markup_mode="markdown", help="Deliver waiting metrics to MLflow, and fix its paths."
)
PANEL = "Release"


@release.command(epilog="Example: `clipbert promote retrieval`", rich_help_panel=PANEL)
def promote(
    task: TaskName,
    params: ParamsFile = DEFAULT,
    overrides: Set = None,
    reconsider: Annotated[bool, typer.Option(help="Allow a version that was rolled back.")] = False,
    reevaluate: Annotated[
        bool, typer.Option(help="Evaluate the champion again instead of using its stored predictions.")
    ] = False,
) -> None:
    """Make the candidate the champion if it is better on the same test items."""
    stages.promote(project(), check_task(task), load_params(params, overrides), reconsider, reevaluate)


@release.command(epilog="Example: `clipbert rollback retrieval`", rich_help_panel=PANEL)
def rollback(task: TaskName, params: ParamsFile = DEFAULT, overrides: Set = None) -> None:
    """Restore the previous champion."""
    stages.rollback(project(), check_task(task), load_params(params, overrides))


@release.command(epilog="Example: `clipbert history retrieval`", rich_help_panel=PANEL)
def history(
    task: OptionalTask = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON list instead of a table.")] = False,
) -> None:
    """List promotions and rollbacks: when, who, from, to, decision, reason and numbers.

    Completes or undoes an interrupted change, and reports aliases that another program moved.
    """
    from clipbert.release.history import history

    name = None if task is None else check_task(task)
    events = history(project().root, name)
    if as_json:
        typer.echo(json.dumps([event.to_json() for event in events], indent=2, ensure_ascii=False))
    elif not events:
        about = "" if name is None else f" of {name}"
        console.print(f"No promotion or rollback{about} yet. Promote a registered model: `clipbert promote TASK`.")
    elif console.is_terminal:
        console.print(_table(events))
    else:
        for event in events:
            fields = (event.at, event.by, event.task, _champion(event), _decision(event), event.reason, _numbers(event))
            console.print("  ".join(filter(None, fields)))


def _table(events: "list[Event]") -> "Table":
    from rich.table import Table

    table = Table(show_lines=True)
    for title in ("when", "who", "task", "champion", "decision", "reason and numbers"):
        table.add_column(title, no_wrap=title in ("when", "decision"), overflow="fold")
    for event in events:
        when = event.at.removesuffix("+00:00").replace("T", " ")
        reason = "\n".join(filter(None, (event.reason, _numbers(event))))
        table.add_row(when, event.by, event.task, _champion(event), _decision(event), reason)
    return table


def _champion(event: "Event") -> str:
    return f"{event.champion_from or 'none'} -> {event.champion_to or 'none'}"


def _decision(event: "Event") -> str:
    words = str(event.decision).replace("_", " ")
    return words if event.version is None else f"{words} {event.version}"


def _numbers(event: "Event") -> str:
    return ", ".join(
        f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}"
        for name, value in event.numbers.items()
    )


@track.command(epilog="Example: `clipbert track sync retrieval`")
def sync(task: OptionalTask = None) -> None:
    """Deliver metrics and files that wait on this disk to MLflow, in order and each value once.

    Exits with code 0 if everything was delivered, else with code 2 and the reason.
    """
    from clipbert.release.delivery import sync

    sync(project().root, None if task is None else check_task(task))


@track.command(epilog="Example: `clipbert track relocate`")
def relocate() -> None:
    """Fix the paths in the embedded MLflow store after the project folder was moved, renamed or copied."""
    from clipbert.release.relocate import relocate

    console.print(relocate(project().root).text)


release.add_typer(track, name="track", rich_help_panel=PANEL)
