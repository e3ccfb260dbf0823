"""What a person does with the quarantine: see it, understand one file, try again."""

import json
from collections import Counter
from dataclasses import asdict

from rich import box
from rich.table import Table

from clipbert.config.schema import Params
from clipbert.console import console
from clipbert.data.manifest import QUARANTINE_FILE, check
from clipbert.data.quarantine import REASONS, Quarantined, read_quarantine
from clipbert.errors import ClipBertError
from clipbert.project import Project
from clipbert.stages import frames

DETAIL_CHARS = 90


def quarantined(project: Project) -> list[Quarantined]:
    """All files in quarantine, of ingest and of frames.

    Raises:
        ClipBertError: nothing was ingested yet, or the list is damaged.
    """
    if not project.manifest.is_dir():
        raise ClipBertError(f"{project.manifest}: nothing was ingested yet. Run: clipbert ingest")
    check(project.manifest, QUARANTINE_FILE)
    rows = read_quarantine(project.manifest / QUARANTINE_FILE, "ingest")
    return rows + read_quarantine(project.frames / QUARANTINE_FILE, "frames")


def list_quarantine(project: Project, reason: str | None, as_json: bool) -> None:
    """Print a table, or one JSON object a line.

    Raises:
        ClipBertError: no such reason code, or nothing was ingested yet.
    """
    if reason is not None and reason not in REASONS:
        raise ClipBertError(f"--reason {reason}: expected one of {', '.join(REASONS)}.")
    rows = [row for row in quarantined(project) if reason in (None, row.reason)]
    if as_json:
        for row in rows:
            console.print(json.dumps(asdict(row), ensure_ascii=False))
        return
    if not rows:
        console.print("No file is in quarantine." if reason is None else f"No file is in quarantine for {reason}.")
        return
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in ("file", "reason", "detail"):
        table.add_column(column, overflow="fold")
    table.add_column("bad from", justify="right")
    for row in rows:
        detail = row.detail if len(row.detail) <= DETAIL_CHARS else f"{row.detail[: DETAIL_CHARS - 3]}..."
        bad = "" if row.first_bad_s is None else f"{row.first_bad_s:.1f} s"
        table.add_row(row.media, row.reason, detail, bad)
    console.print(table)
    counts = Counter(row.reason for row in rows)
    console.print(f"{len(rows)} files: " + ", ".join(f"{number} {code}" for code, number in sorted(counts.items())))
    console.print("More of one: clipbert quarantine show FILE. Another try: clipbert quarantine retry")


def show_quarantined(project: Project, media: str) -> None:
    """Print everything about one file.

    Raises:
        ClipBertError: it is not in quarantine.
    """
    row = _one(quarantined(project), media)
    meaning, remedy = REASONS.get(row.reason, ("", ""))
    bad = "" if row.first_bad_s is None else f"from {row.first_bad_s:.2f} s on"
    facts = [
        ("file", str(project.data / row.media)),
        ("stage", row.stage),
        ("reason", f"{row.reason}: {meaning}"),
        ("seen", row.detail),
        ("bad", bad),
        ("what to do", remedy),
        ("texts", f"{_count_texts(project, row.media)} name it"),
    ]
    for name, fact in facts:
        if fact:
            console.print(f"{name:<12}{fact}")


def retry_quarantined(project: Project, media: list[str], params: Params) -> None:
    """Probe files again as if they were new, then write the manifest; decode those again that failed in frames.

    Raises:
        ClipBertError: a name is not in quarantine, or ingest fails.
    """
    from clipbert.data.ingest.stage import ingest

    before = quarantined(project)
    rows = [_one(before, name) for name in media] or before
    if not rows:
        console.print("No file is in quarantine.")
        return
    wanted = sorted(row.media for row in rows if row.stage == "ingest")
    summary = ingest(project.data, project.manifest, params.ingest, retry=wanted)
    for name in wanted:
        why = summary.quarantined.get(name)
        console.print(f"{name}: {'good now' if why is None else f'{why.reason} ({why.detail})'}")
    if any(row.stage == "frames" for row in rows):
        frames(project, params, repair=True)
    if any(name not in summary.quarantined for name in wanted):
        console.print("The manifest changed. Go on with: dvc repro")


def _one(rows: list[Quarantined], media: str) -> Quarantined:
    """The row of a file, which may be named with data/ in front.

    Raises:
        ClipBertError: it is not in quarantine.
    """
    for row in rows:
        if row.media in (media, media.removeprefix("data/")):
            return row
    some = ", ".join(row.media for row in rows[:5]) or "nothing"
    more = f" and {len(rows) - 5} more" if len(rows) > 5 else ""
    raise ClipBertError(f"{media}: not in quarantine. In it: {some}{more}.")


def _count_texts(project: Project, media: str) -> int:
    from clipbert.data.annotations import stream_texts

    return sum(text.media == media for text in stream_texts(project.data, lambda message: None))
