"""The checks of `clipbert validate` on the present data with the new media and rows; what fails is refused."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from clipbert.config.data import IngestParams, ValidateParams
from clipbert.data import manifest
from clipbert.data.inbox.batch import Batch, Key
from clipbert.data.inbox.present import Present
from clipbert.data.inbox.unmet import Unmet, find_unmet
from clipbert.data.validation import drift
from clipbert.data.validation.checks import checks
from clipbert.data.validation.segments import ClipSettings
from clipbert.data.validation.tables import Tables, make_tables
from clipbert.data.validation.truncation import TextLimit
from clipbert.errors import ClipBertError

KIND_OF_TABLE = {"answers": "open_qa"}  # tables of texts without the column `kind`
NEAR, SAME = "near_duplicates", "split_by_file"


@dataclass(frozen=True)
class Gate:
    """Parameters of the checks.

    Attributes:
        baseline: folder of the last manifest that passed; it may not exist.
        others: as for `validation.stage.validate`.
    """

    params: ValidateParams
    baseline: Path
    max_answers: int = 1500
    limit: TextLimit | str = "no tokenizer was given"
    settings: ClipSettings | None = None


def refuse_duplicates(batch: Batch, present: Present, params: IngestParams) -> None:
    """Refuse media files with the same bytes as one of data/ or of the batch, unless ingest.duplicates is `keep`."""
    known = {} if present.videos is None else dict(zip(present.videos["sha256"], present.videos["media"], strict=True))
    for name in sorted(batch.media):
        twin = known.setdefault(batch.media[name].sha256, name)
        if twin != name and params.duplicates == "quarantine":
            batch.refuse_media(name, "duplicate", f"the same bytes as {twin}")


def refuse_failing(batch: Batch, present: Present, gate: Gate, folder: Path) -> list[str]:
    """Refuse every new row and media file that fails a check of severity `fail`.

    Each new item must pass by itself, also where a check allows a share of the whole data to fail.

    Args:
        folder: for the tables of the batch.

    Returns:
        Warnings about the new items.

    Raises:
        ClipBertError: the batch as a whole fails a check that the present data passes; nothing was merged.
    """
    refuse_unnamed(batch)
    while batch.rows:
        unmet, tables = _unmet(batch, present, gate, folder)
        failed = [one for one in unmet if one.severity == "fail"]
        if not any(_refuse(one, tables, batch) for one in failed):
            _raise_whole(failed, present, gate)
            return [_describe(one, rows) for one in unmet if (rows := _new_rows(one, batch))]
        refuse_unnamed(batch)
    return []


def refuse_unnamed(batch: Batch) -> None:
    """Refuse media files whose rows were all refused."""
    for name in [name for name in batch.media if not batch.rows_of(name)]:
        batch.refuse_media(name, "rows", "all its rows were refused")


def batch_tables(batch: Batch, present: Present, folder: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the videos and texts tables of the batch alone, with the types of a manifest."""
    kinds = {} if present.videos is None else dict(zip(present.videos["media"], present.videos["kind"], strict=True))
    folder.mkdir(parents=True, exist_ok=True)
    with manifest.write_table(folder / manifest.VIDEOS_FILE, manifest.VIDEOS_SCHEMA) as table:
        for name, media in sorted(batch.media.items()):
            assert media.info is not None
            kinds[name] = media.info.kind
            split = next((row.text.split for row in batch.rows_of(name)), None)
            table.add({"media": name, "split": split, **asdict(media.info)})
    schema = (
        manifest.SEGMENTS_SCHEMA if any(row.text.has_segment for row in batch.rows.values()) else manifest.TEXTS_SCHEMA
    )
    with manifest.write_table(folder / manifest.TEXTS_FILE, schema) as table:
        for row in batch.rows.values():
            values = asdict(row.text)
            del values["file"], values["line"]
            table.add(values | {"media_kind": kinds[row.text.media]})
    return manifest.read_videos(folder), manifest.read_texts(folder)


def _unmet(batch: Batch, present: Present, gate: Gate, folder: Path) -> tuple[list[Unmet], Tables]:
    videos, texts = batch_tables(batch, present, folder)
    if present.videos is not None and present.texts is not None:
        # media of data/ that had no text get their split with the first one
        named = texts.drop_duplicates("media").set_index("media")["split"]
        old = present.videos.assign(split=present.videos["split"].fillna(present.videos["media"].map(named)))
        videos = pd.concat([old, videos], ignore_index=True)
        texts = pd.concat([present.texts, texts], ignore_index=True)
    return _checked(videos, texts, gate)


def _checked(videos: pd.DataFrame, texts: pd.DataFrame, gate: Gate) -> tuple[list[Unmet], Tables]:
    today = drift.excerpt("inbox", videos, texts)
    last = drift.read(gate.baseline / drift.LAST)
    changes = None if last is None else drift.measure(last, today, gate.params.drift)
    tables = make_tables(videos, texts, changes, gate.params, gate.max_answers, gate.limit, gate.settings)
    return find_unmet(
        [check for check in checks(gate.params, tables.covered) if check.table in tables.frames], tables
    ), tables


def _refuse(unmet: Unmet, tables: Tables, batch: Batch) -> bool:
    """Refuse the new items among the failing rows; return whether there are any."""
    before = len(batch.refused)
    if unmet.check == NEAR:
        for pair in tables.near.to_dict("records"):
            for name, other in ((pair["media"], pair["near_media"]), (pair["near_media"], pair["media"])):
                if name in batch.media and other not in batch.refused_media:
                    where = pair["near_split"] if other == pair["near_media"] else pair["split"]
                    reason = f"a near-duplicate of {other} in {where} (distance {pair['distance']:.1f} bits)"
                    batch.refuse_media(name, NEAR, reason)
                    break
        return len(batch.refused) > before
    for failing in unmet.rows:
        if unmet.table == "videos":
            if failing["media"] in batch.media:
                batch.refuse_media(failing["media"], unmet.check, _reason(unmet, failing), unmet.remedy)
        elif "id" in failing:
            key: Key = (failing.get("kind") or KIND_OF_TABLE[unmet.table], failing["id"])
            if (row := batch.rows.get(key)) is not None:
                batch.refuse_row(row, unmet.check, _reason(unmet, failing), unmet.remedy)
    return len(batch.refused) > before


def _reason(unmet: Unmet, failing: dict[str, Any]) -> str:
    values = ", ".join(
        f"{name.strip()} is {failing[name.strip()]!r}" for name in unmet.column.split(",") if name.strip() in failing
    )
    return f"fails the check {unmet.check}" + (f": {values}" if values else "")


def _raise_whole(failed: list[Unmet], present: Present, gate: Gate) -> None:
    """Raise an error for checks of the data as a whole that fail with the batch and not without it."""
    whole = [one for one in failed if not one.success]
    if not whole or present.videos is None or present.texts is None:
        return
    without = {(one.check, one.column) for one in _checked(present.videos, present.texts, gate)[0] if not one.success}
    new = [one for one in whole if (one.check, one.column) not in without]
    if new:
        lines = "\n".join(f"  {_describe(one, one.rows)}\n    {one.remedy}" for one in new)
        raise ClipBertError(
            f"The inbox as a whole fails a check of `clipbert validate`; nothing was merged:\n{lines}\n"
            "Take some files out of the inbox, or change the limit in params.yaml, and rerun `clipbert inbox`."
        )


def _new_rows(unmet: Unmet, batch: Batch) -> list[dict[str, Any]]:
    """Return the failing rows about new items."""
    if unmet.table == "videos":
        return [row for row in unmet.rows if row["media"] in batch.media]
    keys = ((row, (row.get("kind") or KIND_OF_TABLE.get(unmet.table, ""), row.get("id", ""))) for row in unmet.rows)
    return [row for row, key in keys if key in batch.rows]


def _describe(unmet: Unmet, rows: list[dict[str, Any]]) -> str:
    shown = "; ".join(", ".join(f"{key}={value}" for key, value in row.items()) for row in rows[:3])
    more = f" and {len(rows) - 3} more" if len(rows) > 3 else ""
    return f"{unmet.check}: {unmet.table} ({unmet.column})" + (f": {shown}{more}" if shown else "")
