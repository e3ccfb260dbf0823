"""Importer of any table (csv, tsv, JSON lines, parquet), by a map from its columns to the canonical keys."""

import difflib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Literal

from clipbert.data.annotations import SEGMENT
from clipbert.data.importers.base import Import, Source, importing
from clipbert.data.importers.limits import MAX_LINE_CHARS, line_error, mebibytes
from clipbert.data.importers.readers import SPLIT_WORDS, Row, records, shown
from clipbert.data.importers.registry import Option, importer
from clipbert.data.importers.splits import HoldOut, hashed_split, read_fractions
from clipbert.data.importers.summary import ImportSummary, Protocol
from clipbert.errors import ClipBertError
from clipbert.sampling.segments import Segment

KEYS = {
    "caption": ("media", "text"),
    "open_qa": ("media", "question", "answer"),
    "multiple_choice": ("media", "question", "options", "answer"),
}
OPTIONAL = {"caption": SEGMENT, "open_qa": ("answer_type", *SEGMENT), "multiple_choice": SEGMENT}
SUFFIXES = (".csv", ".tsv", ".jsonl", ".ndjson", ".parquet")
ROWS_AT_ONCE = 4096
MAX_ROW_GROUP_BYTES = 512 * 2**20


@importer(
    "table",
    title="Any table",
    about="Any table of captions, questions or choices, by a map of its columns.",
    tasks=("retrieval", "captioning", "open_qa", "multiple_choice", "image_qa", "pretrain"),
    annotations="a .csv, .tsv, .jsonl or .parquet with one text per row",
    example="clips.csv clips/ --map text=caption,media=file --map split=fold",
    media="media",
    options={
        "kind": "What a row holds.",
        "columns": Option(
            "Columns named differently from the keys. Repeatable.",
            "--map",
            "KEY=COLUMN,...",
            lambda pairs: read_map(pairs),
        ),
        "split_fractions": Option(
            "Assign splits by a hash of the media names. Repeatable.",
            metavar="SPLIT=FRACTION",
            parse=lambda pairs: read_fractions(pairs, "--split-fractions"),
        ),
    },
)
def import_table(
    table: Path,
    source: Source,
    kind: Literal["caption", "open_qa", "multiple_choice"] = "caption",
    columns: Mapping[str, Sequence[str]] | None = None,
    split_fractions: HoldOut | None = None,
) -> ImportSummary:
    """Import a table with one text per row.

    Args:
        kind: caption, open_qa or multiple_choice.
        columns: {canonical key: its columns}; other keys are columns of their own name. Only `options` may have several
            columns; a single one holds a list. `answer` of a choice is the position from 0 or the text of the option.
            Without `id` the id of a text is its row number.
        split_fractions: for a table without split column, the fractions of val and test, chosen by a hash of the media
            names.

    Raises:
        ClipBertError: the file or a column is missing, a value is of the wrong type, or see `importing`.
    """
    if kind not in KEYS:
        raise ClipBertError(f"kind {kind}: expected one of {', '.join(KEYS)}.")
    if not any(suffix in SUFFIXES for suffix in table.suffixes):
        raise ClipBertError(f"{table}: expected a table, one of {', '.join(SUFFIXES)}.")
    rows = _parquet_rows(table) if table.suffix == ".parquet" else records(table, f"a row with {', '.join(KEYS[kind])}")
    first = next(rows, None)
    if first is None:
        raise ClipBertError(f"{table}: holds no row.")
    found = _columns(first, kind, columns or {}, split_fractions)
    with importing(source, Protocol(), keep_folders=True) as made:
        for number, row in enumerate(chain([first], rows), start=1):
            _add(made, row, kind, found, split_fractions, number)
        if split_fractions:
            shares = ", ".join(f"{100 * share:g} % {split}" for split, share in split_fractions.items())
            made.summary.notes.append(f"split by a hash of the media's names: {shares}, the rest train")
    return made.summary


def read_map(given: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """{"text": ("caption",), "options": ("a1", "a2")} of ["text=caption,options=a1+a2"].

    Raises:
        ClipBertError: it is not KEY=COLUMN, or a key is there twice.
    """
    columns: dict[str, tuple[str, ...]] = {}
    for pair in (pair for text in given for pair in text.split(",")):
        key, _, value = (part.strip() for part in pair.partition("="))
        if not key or not value or key in columns:
            raise ClipBertError(f"--map {pair}: expected KEY=COLUMN, each key once, as text=caption,media=file.")
        columns[key] = tuple(value.split("+")) if key == "options" else (value,)
    return columns


def _columns(
    first: Row, kind: str, given: Mapping[str, Sequence[str]], fractions: HoldOut | None
) -> dict[str, tuple[str, ...]]:
    """{canonical key: its columns}, all of which the table has."""
    known = (*KEYS[kind], *OPTIONAL[kind], "id", "split")
    there = [str(column) for column in first.values]
    for key in given:
        if key not in known:
            raise ClipBertError(
                f"--map {key}={'+'.join(given[key])}: {_near(key, known)}Keys of {kind}: {', '.join(known)}."
            )
    found = {}
    for key in known:
        columns = tuple(given.get(key, (key,)))
        absent = [column for column in columns if column not in there]
        if not absent:
            found[key] = columns
        elif key in given or key in KEYS[kind]:
            raise ClipBertError(
                f"{first.file}: no column {absent[0]!r} for {key}; {_near(absent[0], there)}It has "
                f"{', '.join(there)}; name the right one with --map {key}=COLUMN."
            )
    if "split" not in found and not fractions:
        raise ClipBertError(
            f"{first.file}: no column 'split'; name it with --map split=COLUMN, or draw the splits with "
            "--split-fractions val=0.1 --split-fractions test=0.1."
        )
    if "split" in found and fractions:
        raise ClipBertError(f"{first.file}: has a split column, so --split-fractions is not needed; leave it out.")
    return found


def _near(name: str, names: Sequence[str]) -> str:
    near = difflib.get_close_matches(name, names, n=1)
    return f"did you mean {near[0]}? " if near else ""


def _add(
    made: Import,
    row: Row,
    kind: str,
    columns: Mapping[str, tuple[str, ...]],
    fractions: HoldOut | None,
    number: int,
) -> bool:
    def text(key: str) -> str:
        return row.text(columns[key][0]) if key in columns else ""

    media = text("media").strip()
    if not media:
        return made.drop("an empty media")
    split = _split(row, columns["split"][0]) if "split" in columns else hashed_split("split", media, fractions or {})
    identity = text("id").strip() or f"{kind}-{number}"
    segment = _segment(row, columns)
    if kind == "caption":
        return made.caption(identity, media, text("text"), split, segment)
    if kind == "open_qa":
        answer_type = " ".join(text("answer_type").split())
        return made.question(identity, media, text("question"), text("answer"), split, answer_type, segment=segment)
    options = _options(row, columns["options"])
    answer = _position(row, columns["answer"][0], options)
    return made.choice(identity, media, text("question"), options, answer, split, segment)


def _segment(row: Row, columns: Mapping[str, tuple[str, ...]]) -> Segment | None:
    """Return the segment of a row; an empty cell is the start or the end of the video."""
    found: dict[str, float] = {}
    for key in SEGMENT:
        value = row.value(columns[key][0]) if key in columns else None
        seconds = row.seconds(columns[key][0]) if value not in (None, "") else math.nan
        found[key] = seconds
    segment = Segment.of(found["start_s"], found["end_s"])
    if segment is not None and segment.end_s <= segment.start_s:
        raise ClipBertError(
            f"{row.file}: {row.place}: start_s is {segment.start_s:g} and end_s is {segment.end_s:g}; expected a "
            "segment that ends after it starts. Leave end_s empty for the rest of the video."
        )
    return segment


def _split(row: Row, column: str) -> str:
    split = SPLIT_WORDS.get(row.text(column).strip().lower())
    if split is None:
        raise ClipBertError(
            f"{row.file}: {row.place}: column {column} is {shown(row.value(column))}; expected one of "
            f"{', '.join(SPLIT_WORDS)}."
        )
    return split


def _options(row: Row, columns: tuple[str, ...]) -> list[str]:
    if len(columns) > 1:
        return [row.text(column) for column in columns]
    value = row.value(columns[0])
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError:
            value = None
    if not isinstance(value, list) or not all(isinstance(option, str) for option in value):
        raise ClipBertError(
            f"{row.file}: {row.place}: column {columns[0]} is {shown(row.value(columns[0]))}; expected a list of "
            'options, as ["red", "blue"], or several columns, --map options=a1+a2+a3.'
        )
    return value


def _position(row: Row, column: str, options: list[str]) -> int:
    answer = row.text(column).strip()
    tidy = [" ".join(option.split()) for option in options]
    if tidy.count(" ".join(answer.split())) == 1:
        return tidy.index(" ".join(answer.split()))
    if answer.isdigit() and int(answer) < len(options):
        return int(answer)
    raise ClipBertError(
        f"{row.file}: {row.place}: column {column} is {shown(answer)}; expected the position of the right option, 0 to "
        f"{len(options) - 1}, or its text."
    )


def _parquet_rows(path: Path) -> Iterator[Row]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    number = 0
    try:
        with pq.ParquetFile(path) as file:
            for group in range(file.num_row_groups):
                size = file.metadata.row_group(group).total_byte_size
                if size > MAX_ROW_GROUP_BYTES:
                    raise ClipBertError(
                        f"{path}: row group {group + 1} has {mebibytes(size)}, more than the limit of "
                        f"{mebibytes(MAX_ROW_GROUP_BYTES)}; write the table with smaller ones, as "
                        "`pandas.DataFrame.to_parquet(path, row_group_size=100_000)`."
                    )
            # Rows one by one: a dictionary-encoded column may repeat a long text in each of them.
            texts = [field.name for field in file.schema_arrow if pa.types.is_string(field.type)]
        with pq.ParquetFile(path, read_dictionary=texts) as file:
            for batch in file.iter_batches(ROWS_AT_ONCE):
                for index in range(len(batch)):
                    number += 1
                    values = {name: batch.column(name)[index].as_py() for name in batch.schema.names}
                    for name, value in values.items():
                        if isinstance(value, str | bytes) and len(value) > MAX_LINE_CHARS:
                            raise line_error(path, f"row {number}: column {name}")
                    yield Row(path, f"row {number}", values, "a table")
    except FileNotFoundError:
        raise ClipBertError(f"{path}: no such file.") from None
    except (OSError, pa.ArrowException) as error:
        raise ClipBertError(f"{path}: cannot be read as parquet ({error}).") from error
