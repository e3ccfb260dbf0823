"""`clipbert history`: promotions and rollbacks, from the project's ledger."""

import json
from typing import Annotated, Any

import typer

from clipbert.cli.options import project
from clipbert.config.schema import TASKS, check_task
from clipbert.console import console


def history(
    task: Annotated[
        str | None, typer.Argument(metavar="[TASK]", help=f"One of: {', '.join(TASKS)}; without it, all.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON list instead of a table.")] = False,
) -> None:
    """List promotions and rollbacks: when, who, from, to, decision, reason and numbers.

    Completes or undoes a change that was interrupted, and reports aliases that something else moved.
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
            console.print(_line(event), markup=False)


def _table(events: list[Any]) -> Any:
    from rich.table import Table
    from rich.text import Text

    table = Table(show_lines=True)
    for title in ("when", "who", "task", "champion", "decision", "reason and numbers"):
        table.add_column(title, no_wrap=title in ("when", "decision"), overflow="fold")
    for event in events:
        said = "\n".join(filter(None, (event.reason, _numbers(event))))
        when = event.at.removesuffix("+00:00").replace("T", " ")
        cells = (when, event.by, event.task, _champion(event), _decision(event), said)
        table.add_row(*(Text(cell) for cell in cells))
    return table


def _line(event: Any) -> str:
    facts = (event.at, event.by, event.task, _champion(event), _decision(event), event.reason, _numbers(event))
    return "  ".join(filter(None, facts))


def _champion(event: Any) -> str:
    return f"{event.champion_from or 'none'} -> {event.champion_to or 'none'}"


def _decision(event: Any) -> str:
    words = str(event.decision).replace("_", " ")
    return words if event.version is None else f"{words} {event.version}"


def _numbers(event: Any) -> str:
    return ", ".join(
        f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}"
        for name, value in event.numbers.items()
    )
