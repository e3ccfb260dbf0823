"""index.parquet of the frame cache: where every frame lies. The format is described in docs/frame-cache.md."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from clipbert.errors import ClipBertError

FORMAT = 1
INDEX_FILE = "index.parquet"
READY_FOLDER = ".ready"
SHARDS = "shard-*.tar"
METADATA_KEY = b"clipbert.frames"


@dataclass(frozen=True)
class Entry:
    """One media file in the cache: a run of tar members in one shard.

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


@dataclass(frozen=True)
class Settings:
    """What the whole cache was made with: `decoding` decides the bytes of an entry, `shard_bytes` where shards end."""

    decoding: dict[str, Any]
    shard_bytes: int


def write_index(path: Path, entries: list[Entry], settings: Settings) -> None:
    """Write the entries, in their order, and the settings as metadata; the same bytes for the same arguments."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    lists = {
        "times": pa.float64(),
        "frame_offsets": pa.int64(),
        "frame_lengths": pa.int64(),
        "frame_crc32s": pa.int64(),
    }
    kinds = {name: pa.list_(pa.field("element", kind, nullable=False)) for name, kind in lists.items()}
    kinds |= dict.fromkeys(("media", "sha256", "decoder", "shard"), pa.string())
    kinds |= dict.fromkeys(("offset", "length", "crc32"), pa.int64()) | dict.fromkeys(("height", "width"), pa.int32())
    names = list(Entry.__dataclass_fields__)
    metadata = {METADATA_KEY: json.dumps({"format": FORMAT, **vars(settings)}, sort_keys=True)}
    schema = pa.schema([pa.field(name, kinds[name], nullable=False) for name in names], metadata)
    columns = [pa.array([getattr(entry, name) for entry in entries], kinds[name]) for name in names]
    pq.write_table(pa.table(columns, schema=schema), path, compression="zstd", write_page_checksum=True)


def read_index(folder: Path) -> tuple[list[Entry], Settings]:
    """Read a cache's index.

    Raises:
        ClipBertError: there is none, it is damaged, or another version of the program wrote it.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = folder / INDEX_FILE
    if not path.is_file():
        if (folder / READY_FOLDER / INDEX_FILE).is_file():
            raise ClipBertError(
                f"{folder}: the last build of this frame cache was cut short. Complete it: clipbert frames"
            )
        raise ClipBertError(f"{folder}: no frame cache here ({INDEX_FILE} is missing). Make it: clipbert frames")
    try:
        table = pq.read_table(path, page_checksum_verification=True)
        found = json.loads((table.schema.metadata or {}).get(METADATA_KEY, b"{}"))
    except (OSError, ValueError, pa.ArrowException) as error:
        reason = str(error).splitlines()[0]
        raise ClipBertError(f"{path}: damaged ({reason}). Make the cache again: clipbert frames") from error
    if found.get("format") != FORMAT or table.column_names != list(Entry.__dataclass_fields__):
        raise ClipBertError(
            f"{path}: written by another version (format {found.get('format')}, expected {FORMAT}). "
            "Make the cache again: clipbert frames"
        )
    columns = [_values(table[name].combine_chunks()) for name in table.column_names]
    entries = [Entry(*row) for row in zip(*columns, strict=True)]
    return entries, Settings(found["decoding"], found["shard_bytes"])


def _values(column: Any) -> list[Any]:
    """A column's values; those of a list column as views of one numpy array."""
    if not hasattr(column, "offsets"):
        return column.to_pylist()
    values = column.values.to_numpy()
    return np.split(values, column.offsets.to_numpy()[1:-1])
