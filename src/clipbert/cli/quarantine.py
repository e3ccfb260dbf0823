"""`clipbert quarantine`: list the files that cannot be used, explain one, try them again."""

import json
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from clipbert.cli.options import DEFAULT, ParamsFile, Set, project
from clipbert.config.load import load_params
from clipbert.console import console
from clipbert.data.quarantine import REASONS, NotDecoded, Quarantined, read_quarantine
from clipbert.errors import ClipBertError
from clipbert.project import Project

if TYPE_CHECKING:
    from rich.table import Table

DETAIL_CHARS = 90
quarantine = typer.Typer(no_args_is_help=True, help="List, explain and retry the files that cannot be used.")


@quarantine.command("list", epilog="Example: `clipbert quarantine list --reason timeout`")
def list_files(
    reason: Annotated[str | None, typer.Option(help="Only files with this reason code.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object per line, for programs.")] = False,
) -> None:
    """List the files that ingest or frames has put in quarantine, with the reasons."""
    if reason is not None and reason not in REASONS:
        raise ClipBertError(f"--reason {reason}: expected one of {', '.join(REASONS)}.")
    rows = [row for row in quarantined(project()) if reason in (None, row.reason)]
    if as_json:
        for row in rows:
            values = {name: getattr(row, name) for name in ("media", "reason", "detail", "first_bad_s", "stage")}
            console.print(json.dumps(values, ensure_ascii=False))
    elif not rows:
        console.print("No file is in quarantine." if reason is None else f"No file is in quarantine for {reason}.")
    else:
        console.print(_table(rows))
        counts = Counter(row.reason for row in rows)
        console.print(f"{len(rows)} files: " + ", ".join(f"{number} {code}" for code, number in sorted(counts.items())))
        console.print("Explain one: clipbert quarantine show FILE. Try again: clipbert quarantine retry")


@quarantine.command(epilog="Example: `clipbert quarantine show videos/a.mp4`")
def show(media: Annotated[str, typer.Argument(metavar="MEDIA", help="The file, as a path below data/.")]) -> None:
    """Show everything about one file in quarantine, and what to do about it."""
    from clipbert.data.annotations import stream_texts

    where = project()
    row = _one(quarantined(where), media)
    meaning, remedy = REASONS.get(row.reason, ("", ""))
    texts = sum(text.media == row.media for text in stream_texts(where.data, lambda message: None))
    facts = {
        "file": str(where.data / row.media),
        "stage": row.stage,
        "reason": f"{row.reason}: {meaning}",
        "seen": row.detail,
        "damaged": "" if row.first_bad_s is None else f"from {row.first_bad_s:.2f} s",
        "what to do": remedy,
        "texts": f"{texts} of this file",
    }
    for name, fact in facts.items():
        if fact:
            console.print(f"{name:<12}{fact}")


@quarantine.command(epilog="Example: `clipbert quarantine retry --set ingest.timeout_s=120`")
def retry(
    media: Annotated[list[str] | None, typer.Argument(metavar="[MEDIA]...", help="Default: all files.")] = None,
    params: ParamsFile = DEFAULT,
    overrides: Set = None,
) -> None:
    """Probe files in quarantine again, report each result, and update the manifest and the frame cache."""
    from clipbert import stages
    from clipbert.data.ingest.stage import ingest

    loaded, where = load_params(Path(params), overrides), project()
    before = quarantined(where)
    rows = [_one(before, name) for name in media or []] or before
    if not rows:
        console.print("No file is in quarantine.")
        return
    wanted = sorted(row.media for row in rows if row.stage == "ingest")
    summary = ingest(where.data, where.manifest, loaded.ingest, retry=wanted)
    for name in wanted:
        why = summary.quarantined.get(name)
        console.print(f"{name}: {'usable now' if why is None else f'{why.reason} ({why.detail})'}")
    if any(row.stage == "frames" for row in rows):
        stages.frames(where, loaded, repair=True)
    if any(name not in summary.quarantined for name in wanted):
        console.print("The manifest changed. Run: dvc repro")


def quarantined(where: Project) -> list[Quarantined]:
    """Return all files in quarantine, of ingest and of frames.

    Raises:
        ClipBertError: nothing was ingested yet, or a quarantine.jsonl is damaged.
    """
    from clipbert.data.manifest import QUARANTINE_FILE, check

    if not where.manifest.is_dir():
        raise ClipBertError(f"{where.manifest}: nothing was ingested yet. Run: clipbert ingest")
    check(where.manifest, QUARANTINE_FILE)
    rows = read_quarantine(where.manifest / QUARANTINE_FILE, Quarantined)
    return rows + read_quarantine(where.frames / QUARANTINE_FILE, NotDecoded)


def _table(rows: list[Quarantined]) -> "Table":
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in ("file", "reason", "detail"):
        table.add_column(column, overflow="fold")
    table.add_column("damaged from", justify="right")
    for row in rows:
        detail = row.detail if len(row.detail) <= DETAIL_CHARS else f"{row.detail[: DETAIL_CHARS - 3]}..."
        damaged = "" if row.first_bad_s is None else f"{row.first_bad_s:.1f} s"
        table.add_row(row.media, row.reason, detail, damaged)
    return table


def _one(rows: list[Quarantined], media: str) -> Quarantined:
    """Return the row of a file, which may be named with data/ in front.

    Raises:
        ClipBertError: it is not in quarantine.
    """
    for row in rows:
        if row.media in (media, media.removeprefix("data/")):
            return row
    some = ", ".join(row.media for row in rows[:5]) or "nothing"
    more = f" and {len(rows) - 5} more" if len(rows) > 5 else ""
    raise ClipBertError(f"{media}: not in quarantine, which holds {some}{more}.")
