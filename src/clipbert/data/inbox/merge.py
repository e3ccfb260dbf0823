"""Merge of a checked batch into data/: a plan on disk, and its execution, which can be repeated after a kill anywhere.

Nothing in data/ changes before the plan is complete. Media come first, then each annotation file is replaced whole, so
that no row ever names a missing file.
"""

import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from clipbert.data.annotations import FILES
from clipbert.data.inbox.batch import Batch
from clipbert.data.inbox.seen import Seen
from clipbert.data.inbox.source import Arrival, Source, copy_within
from clipbert.errors import ClipBertError
from clipbert.files.atomic import atomic_directory, atomic_write, fsync_directory, sha256_file, write_errors, write_json

PLAN, REASONS = "plan.json", "reasons.json"


def write_plan(batch: Batch, identity: str, done: dict[str, Arrival], seen: Seen, staging: Path) -> dict[str, Any]:
    """Write the plan of a batch, from which on it will be merged.

    Args:
        identity: name of the batch.
        done: arrivals that are not needed any more.
        seen: the memory after the merge.
        staging: folder with the copies of the media.
    """
    rows = staging / "rows"
    rows.mkdir(parents=True, exist_ok=True)
    for form in FILES:
        lines = [row.merged_line() for row in batch.rows.values() if row.format is form]
        if lines:
            with atomic_write(rows / form.name, "w") as file:
                file.writelines(lines)
    media = {name: item.sha256 for name, item in sorted(batch.media.items())}
    counts: dict[str, int] = {}
    for row in batch.rows.values():
        counts[row.text.kind] = counts.get(row.text.kind, 0) + 1
    plan = {
        "batch": identity,
        "media": media,
        "texts": counts,
        "splits": _splits(batch),
        "assigned": dict(sorted(batch.assigned.items())),
        "refused": [asdict(refusal) for refusal in batch.refused],
        "refused_media": sorted(batch.refused_media),
        "refused_lines": {name: [raw for _, raw in sorted(lines)] for name, lines in batch.refused_lines.items()},
        "done": {name: arrival.stamp for name, arrival in done.items()},
        "seen": seen.entries(),
    }
    write_json(staging / PLAN, plan, sort_keys=False)
    return plan


def read_plan(staging: Path) -> dict[str, Any] | None:
    """Return the plan that a killed process left; None if there is none.

    Raises:
        ClipBertError: it is damaged.
    """
    path = staging / PLAN
    if not path.is_file():
        return None
    try:
        plan: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ClipBertError(
            f"{path}: is damaged ({error}). Compare {staging} with data/ and the inbox, then remove it."
        ) from error
    return plan


def execute(plan: dict[str, Any], staging: Path, data: Path, refused: Path, source: Source, seen: Seen) -> None:
    """Execute a plan; what a killed process did of it is not repeated.

    Args:
        data: the folder that the batch is merged into.
        refused: the folder of refused batches.

    Raises:
        ClipBertError: the disk is full, a folder cannot be written, or data/ was changed by somebody else.
    """
    with write_errors(data):
        _merge_media(plan, staging, data)
    for form in FILES:
        if (staging / "rows" / form.name).is_file():
            _merge_rows(staging / "rows" / form.name, data / form.name)
    if plan["refused"]:
        _set_aside(plan, staging, refused / plan["batch"])
    for name, stamp in plan["done"].items():
        source.remove(Arrival(name, stamp, None))
    seen.restore(plan["seen"])
    seen.write()


def finish(staging: Path) -> None:
    """Remove a plan that was executed and then its folder."""
    (staging / PLAN).unlink(missing_ok=True)
    fsync_directory(staging)
    shutil.rmtree(staging, ignore_errors=True)


def _splits(batch: Batch) -> dict[str, int]:
    splits = {row.text.media: row.text.split for row in batch.rows.values() if row.text.media in batch.media}
    return {split: list(splits.values()).count(split) for split in sorted(set(splits.values()))}


def _merge_media(plan: dict[str, Any], staging: Path, data: Path) -> None:
    folders = set()
    for name, sha256 in plan["media"].items():
        source, target = staging / "media" / name, data / name
        try:
            copy_within(source, target)
        except FileNotFoundError:
            if not target.is_file():
                raise ClipBertError(
                    f"{source}: disappeared while the batch was merged. Remove {staging} and rerun `clipbert inbox`: "
                    "the file is still in the inbox."
                ) from None
        except FileExistsError:
            if sha256_file(target) != sha256:
                raise ClipBertError(
                    f"{target}: was created while the batch was merged, with other bytes than {name} in the inbox. "
                    "Move one of them away and rerun `clipbert inbox`."
                ) from None
        folders.add(target.parent)
    for folder in folders:
        fsync_directory(folder)


def _merge_rows(new: Path, target: Path) -> None:
    """Append the lines of `new` to an annotation file, without those whose ids it has."""
    known = {json.loads(line)["id"] for line in _lines(target)} if target.is_file() else set()
    lines = [line for line in _lines(new) if json.loads(line)["id"] not in known]
    if not lines:
        return
    with atomic_write(target) as out:
        if target.is_file():
            with target.open("rb") as old:
                shutil.copyfileobj(old, out, 1 << 20)
            if _lacks_newline(target):
                out.write(b"\n")
        for line in lines:
            out.write(line)


def _lines(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        for number, line in enumerate(file):
            line = line.removeprefix(b"\xef\xbb\xbf") if number == 0 else line
            if line.strip():
                yield line


def _lacks_newline(path: Path) -> bool:
    with path.open("rb") as file:
        if file.seek(0, os.SEEK_END) == 0:
            return False
        file.seek(-1, os.SEEK_END)
        return file.read(1) != b"\n"


def _set_aside(plan: dict[str, Any], staging: Path, folder: Path) -> None:
    """Write the refused files and rows with their reasons, laid out as in the inbox."""
    if folder.is_dir():
        return
    with atomic_directory(folder) as made:
        for name in plan["refused_media"]:
            copy_within(staging / "media" / name, made / name)
        for name, lines in plan["refused_lines"].items():
            (made / name).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8", errors="surrogateescape")
        write_json(made / REASONS, plan["refused"], sort_keys=False)
