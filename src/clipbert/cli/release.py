"""Commands for registered models: promote, rollback, history, and delivery to MLflow."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from clipbert import stages
from clipbert.cli.options import DEFAULT, OptionalTask, ParamsFile, Set, TaskName, project
from clipbert.config.load import load_params
from clipbert.config.promotion import POLICY, default_policy_text, load_policy
from clipbert.config.tasks import check_task, task_names
from clipbert.config.yaml_io import dump_yaml
from clipbert.console import console, errors
from clipbert.errors import ClipBertError

if TYPE_CHECKING:
    from rich.table import Table

    from clipbert.release.history import Event

release = typer.Typer(rich_markup_mode="markdown")
track = typer.Typer(
    no_args_is_help=True, rich_markup_mode="markdown", help="Deliver waiting metrics to MLflow, and fix its paths."
)
PANEL = "Release"
Policy = Annotated[Path, typer.Option("--policy", metavar="FILE", help="Read the promotion policy from this file.")]


@release.command(epilog="Example: `clipbert promote retrieval`", rich_help_panel=PANEL)
def promote(
    task: TaskName,
    params: ParamsFile = DEFAULT,
    overrides: Set = None,
    policy: Policy = POLICY,
    reconsider: Annotated[bool, typer.Option(help="Allow a version that was rolled back.")] = False,
    reevaluate: Annotated[
        bool, typer.Option(help="Evaluate the champion again instead of using its stored predictions.")
    ] = False,
    ask: Annotated[
        bool, typer.Option("--ask", help="Require a person's approval even if the policy does not.")
    ] = False,
    approved: Annotated[
        bool | None, typer.Option("--approve/--decline", help="Answer for a candidate that waits for a person.")
    ] = None,
    by: Annotated[str, typer.Option(metavar="NAME", help="Who approves or declines. Default: the user.")] = "",
    note: Annotated[str, typer.Option(metavar="TEXT", help="Note about the answer, for the history.")] = "",
    pending: Annotated[
        str | None, typer.Option(metavar="ID", help="The decision that the person saw; refused if it has changed.")
    ] = None,
) -> None:
    """Make the candidate the champion if it passes the policy in mlflow/promotion.yaml.

    Prints each check with its numbers, and writes artifacts/promotions/TASK.html.
    """
    from clipbert.release.decisions import Approval, user_at_host

    if approved is None and (by or note or pending):
        raise ClipBertError("--by, --note and --pending: expected --approve or --decline with them.")
    answer = None if approved is None else Approval(approved, by or user_at_host(), note, pending)
    loaded = load_params(params, overrides)
    stages.promote(
        project(),
        check_task(task),
        loaded,
        load_policy(project().root, policy),
        reconsider=reconsider,
        reevaluate=reevaluate,
        approval=answer,
        ask=ask,
    )


@release.command(epilog="Example: `clipbert policy retrieval`", rich_help_panel=PANEL)
def policy(
    task: OptionalTask = None,
    file: Policy = POLICY,
    defaults: Annotated[bool, typer.Option("--defaults", help="Print a policy file with all defaults.")] = False,
) -> None:
    """Check mlflow/promotion.yaml and print the policy of each task."""
    if defaults:
        typer.echo(default_policy_text(), nl=False)
        return
    loaded = load_policy(project().root, file)
    names = task_names() if task is None else (check_task(task),)
    typer.echo(dump_yaml({name: loaded.of(name).model_dump() for name in names}), nl=False)


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

    Completes or undoes an interrupted change, and reports aliases that were set past the gate.
    """
    from clipbert.release.history import history

    name = None if task is None else check_task(task)
    events = history(project().root, name)
    _report_aliases(name)
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


def _report_aliases(task: str | None) -> None:
    """Print to stderr which aliases were set past the gate, where parameters and registry can be read."""
    from clipbert.release.alias_audit import aliases_past_gate

    try:
        release_name = load_params(DEFAULT, complete=False).release.name
        found = aliases_past_gate(project().root, task_names() if task is None else (task,), release_name)
    except ClipBertError as error:
        errors.print(f"The aliases could not be compared with the ledger: {error}")
        return
    for words in found.values():
        errors.print(words)


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
