"""Manifest: what later stages know about the data, in two parquet tables; schemas, reading and writing."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from clipbert.errors import ClipBertError
from clipbert.files.checksums import DamagedError, add_checksums, check_files, write_checksums

VIDEOS_FILE = "videos.parquet"
TEXTS_FILE = "texts.parquet"
QUARANTINE_FILE = "quarantine.jsonl"
DROPPED_TEXTS_FILE = "dropped_texts.json"

REMEDY = "Rerun: clipbert ingest"
KINDS = ("caption", "open_qa", "multiple_choice")
ROWS_PER_BATCH = 4096


def _column(name: str, kind: pa.DataType, meaning: str, nullable: bool = False) -> pa.Field:
    return pa.field(name, kind, nullable=nullable, metadata={"meaning": meaning})


VIDEOS_SCHEMA = pa.schema(
    [
        _column("media", pa.string(), "path below data/, the key"),
        _column("kind", pa.string(), "video or image; an image is a one-frame video"),
        _column("split", pa.string(), "the split of its texts; null when no text names it", nullable=True),
        _column("sha256", pa.string(), "of the file's bytes"),
        _column("bytes", pa.int64(), "size of the file"),
        _column("container", pa.string(), "mp4, webm, avi, ...; for an image its format"),
        _column("codec", pa.string(), "h264, vp9, ...; for an image its format"),
        _column("width", pa.int32(), "pixels, upright and with square pixels"),
        _column("height", pa.int32(), "pixels, upright and with square pixels"),
        _column("fps", pa.float64(), "frames a second, the mean when the rate varies"),
        _column("duration_s", pa.float64(), "seconds shown"),
        _column("num_frames", pa.int64(), "frames the container holds and shows", nullable=True),
        _column("rotation", pa.int32(), "degrees counter-clockwise that turn the stored picture upright"),
        _column("path_taken", pa.string(), "which decoder serves it: decord, pyav or pil"),
        _column("path_reason", pa.string(), "why that decoder"),
        _column(
            "looks",
            pa.list_(pa.int64()),
            "perceptual hashes (64 bits) of the pictures at (i + 1/2) / N of the duration",
            nullable=True,
        ),
        _column("brightness", pa.float64(), "mean luma of those pictures, 0 black to 255 white", nullable=True),
        _column("motion", pa.float64(), "mean difference of neighbours among them, 0 to 255", nullable=True),
        _column("damage", pa.string(), "damage of a file that can be used nevertheless", nullable=True),
        _column("first_bad_s", pa.float64(), "seconds from the start to the first damage", nullable=True),
        _column(
            "remarks", pa.string(), "how the frames of an undamaged file differ from what a player shows", nullable=True
        ),
    ]
)

TEXTS_SCHEMA = pa.schema(
    [
        _column("id", pa.string(), "unique among the texts of its kind"),
        _column("kind", pa.string(), "caption, open_qa or multiple_choice"),
        _column("media", pa.string(), "a key of the videos table"),
        _column("text", pa.string(), "the caption or the question"),
        _column("answer", pa.string(), "open_qa: the answer, the best one where there are several", nullable=True),
        _column("options", pa.list_(pa.string()), "multiple_choice: the options", nullable=True),
        _column("answer_index", pa.int32(), "multiple_choice: the right option, from 0", nullable=True),
        _column("answer_type", pa.string(), "a label of the question", nullable=True),
        _column("answers", pa.list_(pa.string()), "open_qa: all right answers, where there are several", nullable=True),
        _column("answer_scores", pa.list_(pa.float64()), "open_qa: what each is worth, above 0 to 1", nullable=True),
        _column("split", pa.string(), "train, val or test"),
        _column("media_kind", pa.string(), "video or image: that of its media", nullable=True),
    ]
)
# The columns exist only where a text has a segment, so that other manifests keep their bytes.
SEGMENT_COLUMNS = (
    _column("start_s", pa.float64(), "start of the segment in seconds; null: that of its media", nullable=True),
    _column("end_s", pa.float64(), "end of the segment in seconds; null: that of its media", nullable=True),
)
SEGMENTS_SCHEMA = pa.schema([*TEXTS_SCHEMA, *SEGMENT_COLUMNS])


class TableWriter:
    """Writer of a parquet file, with a few thousand rows in memory at a time."""

    def __init__(self, writer: pq.ParquetWriter, schema: pa.Schema) -> None:
        self._writer = writer
        self._schema = schema
        self._rows: list[Mapping[str, Any]] = []

    def add(self, row: Mapping[str, Any]) -> None:
        """Append a row; only the columns of the schema are written."""
        self._rows.append(row)
        if len(self._rows) >= ROWS_PER_BATCH:
            self.flush()

    def flush(self) -> None:
        """Write the buffered rows."""
        if self._rows:
            self._writer.write_table(pa.Table.from_pylist(self._rows, schema=self._schema))
            self._rows = []


@contextlib.contextmanager
def write_table(path: Path, schema: pa.Schema) -> Iterator[TableWriter]:
    """Open a parquet file for rows of `schema` and add its checksum; the caller provides the atomic folder."""
    with pq.ParquetWriter(path, schema, compression="zstd") as parquet:
        writer = TableWriter(parquet, schema)
        yield writer
        writer.flush()
    add_checksums(path.parent, [path])


def sign(manifest_dir: Path) -> None:
    """Write the checksums of all files of a finished manifest."""
    suffixes = (".parquet", ".jsonl", ".json")
    write_checksums(manifest_dir, [path for path in manifest_dir.iterdir() if path.suffix in suffixes])


def check(manifest_dir: Path, name: str) -> None:
    """Check one file of the manifest against its checksum.

    Raises:
        ClipBertError: it has other bytes than ingest wrote, or there is no checksum of it.
    """
    listed = []

    def wanted(file: str) -> bool:
        listed.append(file)
        return file == name

    try:
        check_files(manifest_dir, wanted)
    except DamagedError as error:
        raise ClipBertError(f"{error}. {REMEDY}") from error
    if name not in listed:
        raise ClipBertError(f"{manifest_dir / name}: has no checksum; another version wrote it. {REMEDY}")


def read_videos(manifest_dir: Path) -> pd.DataFrame:
    """Return the videos table, one row per usable media file, sorted by `media`.

    `num_frames` is a nullable integer column; a missing `split` is NaN.

    Raises:
        ClipBertError: there is no manifest, it is damaged, or another version of the program wrote it.
    """
    frame = _table(manifest_dir / VIDEOS_FILE, [VIDEOS_SCHEMA]).to_pandas()
    return frame.astype({"num_frames": "Int64"})


def read_texts(manifest_dir: Path) -> pd.DataFrame:
    """Return the texts table, one row per caption or question, in the order of the annotation files.

    `answer_index` is a nullable integer column; `options`, `answers` and `answer_scores` hold lists or None. The
    columns `start_s` and `end_s` (NaN where a text has none) exist only if a text has a segment.

    Raises:
        ClipBertError: there is no manifest, it is damaged, or another version of the program wrote it.
    """
    table = _table(manifest_dir / TEXTS_FILE, [TEXTS_SCHEMA, SEGMENTS_SCHEMA])
    frame = table.to_pandas().astype({"answer_index": "Int32"})
    for column in ("options", "answers", "answer_scores"):
        lists = [None if value is None else list(value) for value in frame[column]]
        frame[column] = pd.Series(lists, index=frame.index, dtype=object)
    return frame


def read_video_columns(manifest_dir: Path, columns: list[str]) -> pa.Table:
    """Return some columns of the videos table, sorted by `media` in UTF-8 order; compact, for millions of rows.

    Raises:
        ClipBertError: there is no manifest, it is damaged, or another version of the program wrote it.
    """
    return _table(manifest_dir / VIDEOS_FILE, [VIDEOS_SCHEMA], columns).sort_by("media")


def _table(path: Path, schemas: Sequence[pa.Schema], columns: list[str] | None = None) -> pa.Table:
    """Return a table that has one of the schemas; messages name the first one."""
    if not path.is_file():
        raise ClipBertError(f"{path}: no such file. Make the manifest first: clipbert ingest")
    check(path.parent, path.name)
    try:
        with pq.ParquetFile(path) as file:
            found, table = file.schema_arrow, file.read(columns)
    except (OSError, pa.ArrowInvalid) as error:
        raise ClipBertError(f"{path}: cannot be read ({error}). {REMEDY}") from error
    if not any(found.equals(schema) for schema in schemas):
        raise ClipBertError(
            f"{path}: its columns are {', '.join(found.names)}; expected {', '.join(schemas[0].names)}. "
            f"Another version wrote it. {REMEDY}"
        )
    return table
