"""The command `lineage`: where a registered version comes from, and how to get it back."""

import json
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from clipbert.cli.options import DEFAULT, ParamsFile, Set, complete_task, project
from clipbert.cli.release import PANEL
from clipbert.config.load import load_params
from clipbert.config.schema import Params
from clipbert.config.tasks import task_names
from clipbert.console import console, errors

if TYPE_CHECKING:
    from rich.table import Table

    from clipbert.release.find_version import RegisteredModel
    from clipbert.release.rerun import Verification

lineage_group = typer.Typer(rich_markup_mode="markdown")
WIDTH = 100  # columns


@lineage_group.command(
    epilog="Example: `clipbert lineage retrieval@champion --restore ../champion`", rich_help_panel=PANEL
)
def lineage(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="A registered version: `retrieval@champion`, `clipbert-retrieval/3`, `models:/NAME@ALIAS`, a task "
            "(its champion, or its candidate if it has none), or a number with --task.",
        ),
    ],
    task: Annotated[
        str | None,
        typer.Option(metavar="TASK", help=f"One of: {', '.join(task_names())}.", autocompletion=complete_task),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
    restore: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Check out its code, data and parameters in a new folder, a git worktree."),
    ] = None,
    verify: Annotated[
        bool,
        typer.Option(
            help="Run its stages again in DIR (without --restore: in a temporary folder) and compare the results. "
            "Exits with code 1 if they differ."
        ),
    ] = False,
    params: ParamsFile = DEFAULT,
    overrides: Set = None,
) -> None:
    """Show where a version comes from: run, commit, dvc.lock, data, parameters, validation, evaluation, decisions."""
    from clipbert.release.find_version import find_registered
    from clipbert.release.lineage_summary import lineage_rows, summarize_lineage

    found = find_registered(project(), load_params(params, overrides).release.name, model, task)
    if restore is None and not verify:
        defaults = Params().recorded_parameters(found.task)
        summary = summarize_lineage(found.store, found.task, found.version, found.run, defaults)
        if as_json:
            typer.echo(json.dumps(summary.values, indent=2, ensure_ascii=False))
        else:
            console.print(_table(lineage_rows(summary)), width=min(console.width, WIDTH), soft_wrap=False)
        return
    if restore is not None:
        _restore(found, restore, verify, as_json)
        return
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch, "restored")
        try:
            _restore(found, folder, verify, as_json, keep=False)
        finally:
            from clipbert.release.restore import remove_restored

            remove_restored(found.store.root, folder)


def _restore(found: "RegisteredModel", folder: Path, verify: bool, as_json: bool, keep: bool = True) -> None:
    from clipbert.release.lineage_record import require_lineage
    from clipbert.release.rerun import rerun
    from clipbert.release.restore import restore

    stored = require_lineage(found.store, found.version)
    restored = restore(found.store, found.version, stored, folder)
    values: dict[str, Any] = {"missing": restored.missing, "notes": restored.notes}
    if keep:
        values["folder"] = str(restored.folder)
        errors.print(f"{found.version.name} version {found.version.version} is restored in {restored.folder}.")
    for note in restored.notes:
        errors.print(note)
    if restored.missing and not verify:
        errors.print(f"Not in the cache or the remote, `dvc repro` makes them again: {', '.join(restored.missing)}.")
    result = None
    if verify:
        result = rerun(found.store, found.version, stored, restored.folder, errors.print)
        values["verification"] = asdict(result)
    if as_json:
        typer.echo(json.dumps(values, indent=2, ensure_ascii=False))
    elif result is not None:
        console.print("\n".join(_verification_lines(result)))
    if keep:
        errors.print(
            f"To run it: `cd {restored.folder} && PYTHONPATH=src dvc repro`. To remove it: `git worktree remove "
            f"--force {restored.folder}`."
        )
    if result is not None and result.outcome == "different":
        raise typer.Exit(1)


def _verification_lines(result: "Verification") -> list[str]:
    lines = [f"{name}: {'identical' if same else 'different'}" for name, same in result.same.items()]
    if result.outcome == "identical":
        lines.append(f"model: identical (digest {result.digest[:12]}...)")
    else:
        lines.append(f"model: different (digest {result.digest[:12]}..., expected {result.expected[:12]}...)")
    if result.difference is not None and result.outcome != "identical":
        mean, low, high = result.difference
        lines.append(
            f"test scores: {mean:+.4f} on the same items, 95% interval {low:+.4f} to {high:+.4f}: {result.outcome}"
        )
    lines += [f"  {name}: {before:.4g} -> {after:.4g}" for name, (before, after) in result.metrics.items()]
    lines += [f"environment: {name} was {then}, is {now}" for name, (then, now) in result.environment.items()]
    ending = {
        "identical": "Reproduced: the rerun made the same model.",
        "within noise": "Reproduced within noise: another model whose test scores differ by no more than chance.",
        "different": "NOT reproduced.",
    }
    return [*lines, ending[result.outcome]]


def _table(rows: list[tuple[str, list[str]]]) -> "Table":
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for title, lines in rows:
        table.add_row(Text(title), Text("\n".join(lines)))
    return table
