"""Index of the frame cache, index.arrow: the position of every frame. docs/concepts/frame-cache.md describes the
format.

An uncompressed Arrow file, so that readers map it into memory: all processes share one copy in the page cache, and an
index of millions of media opens at once. Arrow files have no checksums, so each row has its own.
"""

import json
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from clipbert.errors import ClipBertError

FORMAT = 2
INDEX_FILE = "index.arrow"
QUARANTINE_FILE = "quarantine.jsonl"
METADATA_KEY = b"clipbert.frames"
ROWS_PER_BATCH = 256
REMEDY = "Make the index again: clipbert frames, which decodes nothing that is still whole"


@dataclass(frozen=True, slots=True)
class Entry:
    """Entry of one media file in the cache: a run of tar members in one shard.

    `times` (N,) float64 seconds; `frame_offsets` and `frame_lengths` (N,) int64 bytes from the start of the shard;
    `frame_crc32s` (N,) int64; `offset`, `length`, `crc32` are those of the whole run, tar headers included.
    """

    media: str
    sha256: str
    decoder: str
    shard: str
    offset: int
    length: int
    crc32: int
    height: int
    width: int
    times: np.ndarray
    frame_offsets: np.ndarray
    frame_lengths: np.ndarray
    frame_crc32s: np.ndarray

    @property
    def key(self) -> tuple[str, str, str]:
        """Return media and what its pictures depend on."""
        return self.media, self.sha256, self.decoder

    def checksum(self) -> int:
        """Return the CRC-32 of all fields."""
        numbers = struct.pack("<5q", self.offset, self.length, self.crc32, self.height, self.width)
        found = zlib.crc32("\n".join((self.media, self.sha256, self.decoder, self.shard)).encode() + numbers)
        for array in (self.times, self.frame_offsets, self.frame_lengths, self.frame_crc32s):
            found = zlib.crc32(array.data, found)
        return found


COLUMNS = tuple(Entry.__dataclass_fields__)
CHECKSUM = "row_crc32"


@dataclass(frozen=True)
class Settings:
    """Settings of the whole cache: `decoding` determines the bytes of an entry, `shard_bytes` where shards end."""

    decoding: dict[str, Any]
    shard_bytes: int


def _schema(settings: Settings) -> Any:
    import pyarrow as pa

    lists = {"times": pa.float64()} | dict.fromkeys(("frame_offsets", "frame_lengths", "frame_crc32s"), pa.int64())
    kinds = {name: pa.list_(pa.field("element", kind, nullable=False)) for name, kind in lists.items()}
    kinds |= dict.fromkeys(("media", "sha256", "decoder", "shard"), pa.string())
    kinds |= dict.fromkeys(("offset", "length", "crc32", CHECKSUM), pa.int64())
    kinds |= dict.fromkeys(("height", "width"), pa.int32())
    metadata = {METADATA_KEY: json.dumps({"format": FORMAT, **vars(settings)}, sort_keys=True)}
    return pa.schema([pa.field(name, kinds[name], nullable=False) for name in (*COLUMNS, CHECKSUM)], metadata)


class IndexWriter:
    """Writer of the index from sorted entries: the same file for the same entries, with few rows in memory."""

    def __init__(self, path: Path, settings: Settings) -> None:
        import pyarrow as pa

        self._schema = _schema(settings)
        self._file = pa.OSFile(str(path), "wb")
        self._writer = pa.ipc.new_file(self._file, self._schema)
        self._rows: list[Entry] = []

    def add(self, entry: Entry) -> None:
        """Append a row."""
        self._rows.append(entry)
        if len(self._rows) == ROWS_PER_BATCH:
            self._flush()

    def _flush(self) -> None:
        import pyarrow as pa

        rows, self._rows = self._rows, []
        values: list[list[Any]] = [[getattr(row, name) for row in rows] for name in COLUMNS]
        values.append([row.checksum() for row in rows])
        arrays = [pa.array(column, field.type) for column, field in zip(values, self._schema, strict=True)]
        self._writer.write_batch(pa.record_batch(arrays, schema=self._schema))

    def close(self) -> None:
        """Write the rows held back and the end of the file."""
        if self._rows:
            self._flush()
        self._writer.close()
        self._file.close()


class _Batch:
    """Columns of a record batch in the mapped file."""

    def __init__(self, batch: Any) -> None:
        batch.validate(full=True)
        self.media = batch.column(0)
        self._columns = [batch.column(place) for place in range(len(COLUMNS) + 1)]
        self._lists = {
            place: (column.offsets.to_numpy(), column.values.to_numpy())
            for place, column in enumerate(self._columns)
            if hasattr(column, "offsets")
        }

    def entry(self, row: int) -> Entry:
        """Return one row, checked.

        Raises:
            ValueError: it fails its checksum.
        """
        values: list[Any] = []
        for place, column in enumerate(self._columns):
            if place in self._lists:
                offsets, items = self._lists[place]
                values.append(items[offsets[row] : offsets[row + 1]])
            else:
                values.append(column[row].as_py())
        entry = Entry(*values[:-1])
        if entry.checksum() != values[-1]:
            raise ValueError("a row fails its checksum")
        return entry


class Index:
    """Index of a cache, mapped into memory; rows are read and checked when they are accessed.

    Raises:
        ClipBertError: there is none at `path`, it is damaged, or another version of the program wrote it.
    """

    def __init__(self, path: Path) -> None:
        import pyarrow as pa

        self.path = path
        if not path.is_file():
            raise ClipBertError(
                f"{path.parent}: no frame cache here ({INDEX_FILE} is missing). Make it: clipbert frames"
            )
        self._batches: dict[int, _Batch] = {}
        try:
            self._reader = pa.ipc.open_file(pa.memory_map(str(path)), options=pa.ipc.IpcReadOptions(use_threads=False))
            found = json.loads((self._reader.schema.metadata or {}).get(METADATA_KEY, b"{}"))
        except (OSError, ValueError, pa.ArrowException) as error:
            raise self._damaged(error) from error
        if found.get("format") != FORMAT or self._reader.schema.names != [*COLUMNS, CHECKSUM]:
            raise ClipBertError(
                f"{path}: written by another version (format {found.get('format')}, expected {FORMAT}). "
                "Make the cache again: clipbert frames"
            )
        self.settings = Settings(found["decoding"], found["shard_bytes"])
        batches = self._reader.num_record_batches
        last = len(self._batch(batches - 1).media) if batches else 0
        self._length = (batches - 1) * ROWS_PER_BATCH + last if batches else 0

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, row: int) -> Entry:
        batch = self._batch(row // ROWS_PER_BATCH)
        try:
            return batch.entry(row % ROWS_PER_BATCH)
        except ValueError as error:
            raise self._damaged(error) from error

    def __iter__(self) -> Iterator[Entry]:
        return (self[row] for row in range(len(self)))

    def media(self) -> Iterator[str]:
        """Yield the media of every row, in order."""
        for number in range(self._reader.num_record_batches):
            yield from self._batch(number).media.to_pylist()

    def contents(self) -> Iterator[tuple[str, str]]:
        """Yield SHA-256 and decoder of every row, in order."""
        for number in range(self._reader.num_record_batches):
            batch = self._reader.get_batch(number)
            yield from zip(batch.column("sha256").to_pylist(), batch.column("decoder").to_pylist(), strict=True)

    def totals(self) -> tuple[int, int, set[str]]:
        """Return the number of media, the number of frames and the names of the shards; rows are not checked."""
        frames, shards = 0, set[str]()
        for number in range(self._reader.num_record_batches):
            batch = self._reader.get_batch(number)
            frames += len(batch.column("times").values)
            shards.update(batch.column("shard").unique().to_pylist())
        return len(self), frames, shards

    def find(self, media: str) -> int | None:
        """Return the row of a media by binary search, or None."""
        low, high = 0, len(self)
        while low < high:
            middle = (low + high) // 2
            if self._media(middle) < media:
                low = middle + 1
            else:
                high = middle
        return low if low < len(self) and self._media(low) == media else None

    def _media(self, row: int) -> str:
        return str(self._batch(row // ROWS_PER_BATCH).media[row % ROWS_PER_BATCH].as_py())

    def _batch(self, number: int) -> _Batch:
        import pyarrow as pa

        batch = self._batches.get(number)
        if batch is None:
            try:
                batch = self._batches.setdefault(number, _Batch(self._reader.get_batch(number)))
            except (OSError, ValueError, pa.ArrowException) as error:
                raise self._damaged(error) from error
        return batch

    def _damaged(self, error: Exception) -> ClipBertError:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        return ClipBertError(f"{self.path}: damaged ({reason}). {REMEDY}")
