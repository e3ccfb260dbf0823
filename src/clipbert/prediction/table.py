"""Tables of videos and texts: csv, tsv, JSON lines and Parquet files, read and written by their ending."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from clipbert.data.importers.readers import Row, json_lines, table_rows
from clipbert.errors import ClipBertError
from clipbert.files.atomic import atomic_write

SUFFIXES = (".csv", ".tsv", ".jsonl", ".parquet")
LAYOUT = "a table with a column video"
# Columns that a task needs besides `video`, and what each holds.
NEEDED: dict[str, tuple[str, ...]] = {
    "open_qa": ("question",),
    "image_qa": ("question",),
    "multiple_choice": ("question", "options"),
    "captioning": (),
    "retrieval": ("text",),
    "pretrain": ("text",),
}
RESULTS = {
    "open_qa": ("answer", "score", "confidence"),
    "image_qa": ("answer", "score", "confidence"),
    "multiple_choice": ("answer", "option", "score", "confidence"),
    "captioning": ("caption", "score"),
    "retrieval": ("score",),
    "pretrain": ("score",),
}
ERROR = "error"


def check_suffix(option: str, path: Path) -> str:
    """Return the ending of a table's name.

    Raises:
        ClipBertError: it is not one of `SUFFIXES`.
    """
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise ClipBertError(f"{option} {path}: expected a file name that ends in one of {', '.join(SUFFIXES)}.")
    return suffix


def read_table(path: Path, task: str) -> list[dict[str, Any]]:
    """Return the rows of a table for a task.

    Raises:
        ClipBertError: the file is missing or unreadable, has no rows, lacks a column that the task needs, or has one
            that the results would overwrite.
    """
    rows = [dict(row.values) for row in _rows(path)]
    if not rows:
        raise ClipBertError(f"{path}: has no rows; expected {LAYOUT}.")
    columns = list(dict.fromkeys(name for row in rows for name in row))
    for name in ("video", *NEEDED[task]):
        if name not in columns:
            raise ClipBertError(
                f"{path}: has no column {name}, only {', '.join(columns)}; {task} needs video"
                f"{''.join(f', {each}' for each in NEEDED[task])}. Rename the column that holds it."
            )
    for name in (*RESULTS[task], ERROR):
        if name in columns and name not in NEEDED[task]:
            raise ClipBertError(f"{path}: has a column {name}, which the results of {task} have too. Rename it.")
    return rows


def _rows(path: Path) -> Iterator[Row]:
    suffix = check_suffix("--input", path)
    if not path.is_file():
        raise ClipBertError(f"--input {path}: no such file.")
    if suffix == ".jsonl":
        yield from json_lines(path, LAYOUT)
    elif suffix == ".parquet":
        yield from _parquet_rows(path)
    else:
        yield from table_rows(path, LAYOUT)


def _parquet_rows(path: Path) -> Iterator[Row]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            values = [row for batch in file.iter_batches() for row in batch.to_pylist()]
    except (OSError, pa.ArrowException) as error:
        raise ClipBertError(f"{path}: cannot be read as parquet ({error}).") from error
    for number, row in enumerate(values, start=1):
        yield Row(path, f"row {number}", row, LAYOUT)


def write_table(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write rows as a table; all rows have the columns of the first.

    Raises:
        ClipBertError: the file cannot be written, or Parquet cannot hold the values of a column.
    """
    suffix = check_suffix("--output", path)
    if suffix == ".jsonl":
        with atomic_write(path, "w") as file:
            file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    elif suffix == ".parquet":
        _write_parquet(path, rows)
    else:
        import csv

        with atomic_write(path, "w") as file:
            writer = csv.DictWriter(file, list(rows[0]), dialect="excel-tab" if suffix == ".tsv" else "excel")
            writer.writeheader()
            writer.writerows({name: _cell(value) for name, value in row.items()} for row in rows)


def _write_parquet(path: Path, rows: list[dict[str, Any]]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pa.Table.from_pylist(rows)
    except (pa.ArrowException, OverflowError) as error:
        raise ClipBertError(
            f"--output {path}: parquet cannot hold a column with values of several types ({error}). Use .jsonl."
        ) from error
    with atomic_write(path) as file:
        pq.write_table(table, file)


def _cell(value: Any) -> Any:
    """Return a value as a csv file holds it: lists as JSON, which the reader of options takes."""
    return json.dumps(value, ensure_ascii=False) if isinstance(value, list | dict) else value


def options_of(row: Mapping[str, Any]) -> list[str]:
    """Return the options of a row: a list, or its JSON.

    Raises:
        ValueError: they are not two or more texts.
    """
    value = row.get("options")
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError:
            value = None
    if (
        not isinstance(value, list)
        or len(value) < 2
        or not all(isinstance(each, str) and each.strip() for each in value)
    ):
        raise ValueError(
            f'options is {row.get("options")!r:.80}: expected a JSON list of two or more texts, as ["a", "b"]'
        )
    return value


def text_of(row: Mapping[str, Any], name: str) -> str:
    """Return a text of a row.

    Raises:
        ValueError: it is missing or empty.
    """
    value = row.get(name)
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{name} is {value!r:.80}: expected a text")
    return value


def video_of(row: Mapping[str, Any], media: Path) -> dict[str, Any]:
    """Return the video of a row and its segment, as a pipeline takes them.

    Args:
        media: the folder of relative paths.

    Raises:
        ValueError: the path is missing, or a time is not a number.
    """
    found: dict[str, Any] = {"video": media / text_of(row, "video")}
    for name in ("start_s", "end_s"):
        value = row.get(name)
        if value is None or value == "":
            continue
        try:
            found[name] = float(value)
        except (TypeError, ValueError):
            raise ValueError(f"{name} is {value!r:.80}: expected seconds") from None
    return found
