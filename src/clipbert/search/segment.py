"""Segments: immutable parts of an index, each a folder that is written completely before the index names it.

`videos.parquet` has a row per video, `clips.npy` a row per clip, in the order of the videos, `vectors.faiss` the vector
of each clip, and `tokens.npy` the visual tokens of each clip, for the cross-encoder.
"""

import secrets
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clipbert.errors import ClipBertError
from clipbert.files.atomic import atomic_directory, sha256_file
from clipbert.search.index_file import REMEDY, SEGMENTS, SegmentRecord
from clipbert.search.sources import Value
from clipbert.search.vectors import Vectors, write_vectors

VIDEOS_FILE, CLIPS_FILE, VECTORS_FILE, TOKENS_FILE = "videos.parquet", "clips.npy", "vectors.faiss", "tokens.npy"
CLIP_ROW = np.dtype([("video", "<i4"), ("start_s", "<f8"), ("end_s", "<f8"), ("crc32", "<u4")])
METADATA = "metadata."


@dataclass(frozen=True)
class IndexedVideo:
    """Video of an index with its clips.

    Attributes:
        path: the file; relative to the folder of the index where that makes the project movable.
        stamp: size in bytes and time of the last change in ns, by which an unchanged file is known.
        spans: (n, 2) the start and end of each clip in seconds.
        vectors: (n, P) float16 unit vectors.
        tokens: (n, K, V, hidden) float16; None where they are not stored.
    """

    video_id: str
    path: str
    sha256: str
    stamp: tuple[int, int]
    duration_s: float
    metadata: dict[str, Value]
    spans: NDArray[np.float64]
    vectors: NDArray[np.float16]
    tokens: NDArray[np.float16] | None


def write_segment(folder: Path, number: int, videos: Sequence[IndexedVideo]) -> SegmentRecord:
    """Write a segment of an index and return its record.

    Args:
        folder: of the index.
        number: of the segment.

    Raises:
        ClipBertError: the disk is full or the folder cannot be written.
    """
    name = segment_name(number)
    counts = [len(video.vectors) for video in videos]
    clips = np.zeros(sum(counts), CLIP_ROW)
    clips["video"] = np.repeat(np.arange(len(videos)), counts)
    spans = np.concatenate([video.spans for video in videos])
    clips["start_s"], clips["end_s"] = spans[:, 0], spans[:, 1]
    with atomic_directory(folder / SEGMENTS / name) as out:
        tokens = [video.tokens for video in videos if video.tokens is not None]
        if tokens:
            every = np.concatenate(tokens)
            clips["crc32"] = [zlib.crc32(row.tobytes()) for row in every]
            np.save(out / TOKENS_FILE, every)
        np.save(out / CLIPS_FILE, clips)
        write_vectors(out / VECTORS_FILE, np.concatenate([video.vectors for video in videos]))
        write_videos(out / VIDEOS_FILE, videos)
        return record_of(out, name, len(videos), len(clips))


def segment_name(number: int) -> str:
    """Return a new name of a segment."""
    return f"{number:06d}-{secrets.token_hex(4)}"


def record_of(folder: Path, name: str, videos: int, clips: int) -> SegmentRecord:
    """Return the record of a segment whose files are in `folder`."""
    files = sorted(folder.iterdir())
    digests = {path.name: sha256_file(path) for path in files}
    return SegmentRecord(name, videos, clips, digests, {path.name: path.stat().st_size for path in files})


def write_videos(path: Path, videos: Iterable[IndexedVideo]) -> None:
    """Write the table of the videos of a segment."""
    write_rows(path, [_row(video) for video in videos])


def _row(video: IndexedVideo) -> dict[str, Any]:
    size, changed = video.stamp
    row = {"video_id": video.video_id, "path": video.path, "sha256": video.sha256, "bytes": size, "changed_ns": changed}
    metadata = {f"{METADATA}{key}": value for key, value in video.metadata.items()}
    return row | {"duration_s": video.duration_s, "clips": len(video.vectors)} | metadata


def write_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write rows of the table of videos; a metadata column of several types becomes one of texts."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns: dict[str, Any] = {}
    for name in dict.fromkeys(key for row in rows for key in row):
        values = [row.get(name) for row in rows]
        try:
            columns[name] = pa.array(values)
        except (pa.ArrowInvalid, pa.ArrowTypeError):
            columns[name] = pa.array([None if value is None else str(value) for value in values])
    pq.write_table(pa.table(columns), path, compression="zstd")


class Segment:
    """Segment that is open for reading; its files are mapped into memory.

    Attributes:
        record: as the index has it.
        live: (clips,) which clips count; None: all.
    """

    def __init__(self, folder: Path, record: SegmentRecord, verify: bool = True) -> None:
        """
        Args:
            folder: of the index.
            verify: check the content of the files, except that of the tokens, which are checked when they are read.

        Raises:
            ClipBertError: a file is missing or damaged.
            FileNotFoundError: the whole segment is gone.
        """
        import pyarrow.parquet as pq

        self.record, self.folder = record, folder / SEGMENTS / record.name
        if not self.folder.is_dir():
            raise FileNotFoundError(self.folder)
        for name, digest in record.files.items():
            path = self.folder / name
            found = path.stat().st_size if path.is_file() else None
            whole = found == record.sizes[name]
            if not whole or (verify and name != TOKENS_FILE and sha256_file(path) != digest):
                what = "missing" if found is None else "damaged: it is not what was written"
                raise ClipBertError(f"{path}: {what}. {REMEDY}")
        self.clips = np.load(self.folder / CLIPS_FILE, mmap_mode="r")
        self.vectors = Vectors(self.folder / VECTORS_FILE)
        self.tokens = np.load(self.folder / TOKENS_FILE, mmap_mode="r") if TOKENS_FILE in record.files else None
        self.videos = pq.read_table(self.folder / VIDEOS_FILE)
        self.live: NDArray[np.bool_] | None = None
        if record.deleted:
            self.live = ~np.isin(self.clips["video"], record.deleted)

    @property
    def live_videos(self) -> NDArray[np.bool_]:
        """(videos,) which videos count."""
        found = np.ones(self.record.videos, dtype=bool)
        found[self.record.deleted] = False
        return found

    @property
    def live_clips(self) -> int:
        """Number of clips that count."""
        return self.record.clips if self.live is None else int(self.live.sum())

    @property
    def keys(self) -> list[str]:
        """Metadata columns."""
        return [name.removeprefix(METADATA) for name in self.videos.column_names if name.startswith(METADATA)]

    def allowed(self, where: dict[str, list[str]]) -> NDArray[np.bool_] | None:
        """Return which clips count and match the filters, (clips,); None: all.

        Args:
            where: the accepted values of each metadata column.
        """
        if not where:
            return self.live
        videos = self.live_videos
        for key, values in where.items():
            name = f"{METADATA}{key}"
            if name not in self.videos.column_names:
                videos[:] = False
                break
            videos &= matches(self.videos.column(name), values)
        found: NDArray[np.bool_] = videos[self.clips["video"]]
        return found

    def video(self, number: int) -> dict[str, Any]:
        """Return the row of a video."""
        row: dict[str, Any] = self.videos.slice(number, 1).to_pylist()[0]
        return row

    def check_tokens(self) -> None:
        """Check the content of the file of the tokens.

        Raises:
            ClipBertError: it is damaged.
        """
        path = self.folder / TOKENS_FILE
        if self.tokens is not None and sha256_file(path) != self.record.files[TOKENS_FILE]:
            raise ClipBertError(f"{path}: damaged: it is not what was written. {REMEDY}")

    def read_tokens(self, row: int) -> NDArray[np.float16]:
        """Return the visual tokens (K, V, hidden) of a clip.

        Raises:
            ClipBertError: they are damaged.
        """
        assert self.tokens is not None
        found: NDArray[np.float16] = np.array(self.tokens[row])
        if zlib.crc32(found.tobytes()) != self.clips["crc32"][row]:
            raise ClipBertError(f"{self.folder / TOKENS_FILE}: damaged: the tokens of clip {row} changed. {REMEDY}")
        return found


def metadata_of(row: dict[str, Any]) -> dict[str, Any]:
    """Return the metadata of a row of `videos.parquet`."""
    return {
        name.removeprefix(METADATA): value
        for name, value in row.items()
        if name.startswith(METADATA) and value is not None
    }


def matches(column: Any, values: list[str]) -> NDArray[np.bool_]:
    """Return which rows of a column are one of the values; numbers are compared as numbers, booleans by their names."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_boolean(column.type):
        wanted = pa.array(
            [value.lower() == "true" for value in values if value.lower() in ("true", "false")], pa.bool_()
        )
    elif pa.types.is_integer(column.type) or pa.types.is_floating(column.type):
        numbers = [number for value in values if (number := _number(value)) is not None]
        column, wanted = column.cast(pa.float64()), pa.array(numbers, pa.float64())
    else:
        column, wanted = column.cast(pa.string()), pa.array(values, pa.string())
    found: NDArray[np.bool_] = pc.is_in(column, value_set=wanted, skip_nulls=True).to_numpy(zero_copy_only=False)
    return found


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
