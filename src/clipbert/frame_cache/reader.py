"""Reader of the frame cache: any frame of any video by one positioned read, verified by its checksum."""

import functools
import io
import os
import zlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from PIL import Image

from clipbert.errors import ClipBertError
from clipbert.frame_cache.index import Entry, Index
from clipbert.frame_cache.storage import LocalShards, Shards, open_storage


class CorruptShardError(ClipBertError):
    """Error for bytes of a shard that are missing or fail their checksum."""


class FrameCache:
    """Candidate frames of every video, as `clipbert frames` stored them in the folder `path` or published them at that
    URL.

    The index is mapped into memory, so all processes share one copy. Each process opens files when it first needs
    them: a cache pickles as its path and may be used in parent and child after a fork, and from several threads.

    Raises:
        ClipBertError: `path` has no cache, the index is damaged, or the requested media are not in it.
        CorruptShardError: a frame that is read fails its checksum, or its shard is missing or too short.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = os.fspath(path)
        self._last: Entry | None = None
        _ = self._index

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "_last": None}

    def __repr__(self) -> str:
        return f"FrameCache({self.path!r}): {len(self)} media"

    @functools.cached_property
    def _shards(self) -> Shards:
        return open_storage(self.path)

    @functools.cached_property
    def _index(self) -> Index:
        return Index(self._shards.index())

    @property
    def media(self) -> list[str]:
        """Return the media in the cache, sorted."""
        return list(self._index.media())

    @property
    def shards(self) -> list[str]:
        """Return the names of the shards, in the order of their media."""
        return list(dict.fromkeys(entry.shard for entry in self._index))

    @property
    def quarantined(self) -> list[str]:
        """Return the media of the manifest that could not be decoded and are not in the cache."""
        return self._shards.quarantined()

    @property
    def settings(self) -> dict[str, Any]:
        """Return what determined the frames: fps, size, quality, max_frames, sampling and the decoders' versions."""
        return dict(self._index.settings.decoding)

    @property
    def contents(self) -> Any:
        """Return the table of media, SHA-256, decoder (`path_taken`) and duration (0.0: unknown) of every entry.

        It has the columns that `clipbert.frame_cache.update.update_cache` takes.
        """
        import pyarrow as pa

        pairs = list(self._index.contents())
        return pa.table(
            {
                "media": pa.array(self.media, pa.string()),
                "sha256": pa.array([sha256 for sha256, _ in pairs], pa.string()),
                "path_taken": pa.array([decoder for _, decoder in pairs], pa.string()),
                "duration_s": pa.array([0.0] * len(pairs), pa.float64()),
            }
        )

    def __len__(self) -> int:
        return len(self._index)

    def __iter__(self) -> Iterator[str]:
        return self._index.media()

    def __contains__(self, media: object) -> bool:
        return isinstance(media, str) and self._index.find(media) is not None

    def __getitem__(self, media: str) -> "CachedVideo":
        return CachedVideo(self, self._entry(media))

    def num_frames(self, media: str) -> int:
        """Return the number N of candidate frames of a video."""
        return len(self._entry(media).times)

    def read(self, media: str, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        """Decode only the frames `indices` of a video: (len(indices), H, W, 3) uint8 RGB.

        Raises:
            IndexError: an index outside 0 to N - 1.
        """
        entry = self._entry(media)
        wanted = np.asarray(indices, dtype=np.int64).reshape(-1)
        outside = wanted[(wanted < 0) | (wanted >= len(entry.times))]
        if outside.size:
            raise IndexError(f"{media}: frame {outside[0]} of {len(entry.times)}")
        places = wanted.tolist()
        different = list(dict.fromkeys(places))
        ranges = list(
            zip(entry.frame_offsets[different].tolist(), entry.frame_lengths[different].tolist(), strict=True)
        )
        pictures = {
            index: self._decode(self._checked(entry, index, data))
            for index, data in zip(different, self._bytes(entry, ranges), strict=True)
        }
        frames = self._empty(entry, len(wanted))
        for place, index in enumerate(places):
            frames[place] = pictures[index]
        return frames

    def _empty(self, entry: Entry, count: int) -> np.ndarray:
        """Return an array for `count` frames of an entry."""
        return np.empty((count, entry.height, entry.width, 3), np.uint8)

    def _entry(self, media: str) -> Entry:
        # a clip needs the row twice: for the number of frames, then for the frames
        last = self._last
        if last is None or last.media != media:
            self._last = last = self._find(media)
        return last

    def _find(self, media: str) -> Entry:
        row = self._index.find(media)
        if row is None:
            raise ClipBertError(
                f"{media}: not in the frame cache {self.path}, which holds {len(self)} media. "
                "If it was added since, run: clipbert ingest, then clipbert frames"
            )
        return self._index[row]

    def _checked(self, entry: Entry, index: int, data: bytes) -> bytes:
        if len(data) != entry.frame_lengths[index]:
            raise self._corrupt(entry, "the shard is too short")
        if zlib.crc32(data) != entry.frame_crc32s[index]:
            raise self._corrupt(entry, f"frame {index} fails its checksum")
        return data

    def _decode(self, data: bytes) -> np.ndarray:
        with Image.open(io.BytesIO(data), formats=("JPEG",)) as image:
            return np.asarray(image if image.mode == "RGB" else image.convert("RGB"))

    def _bytes(self, entry: Entry, ranges: list[tuple[int, int]]) -> list[bytes]:
        try:
            return self._shards.read(entry.shard, ranges)
        except FileNotFoundError:
            raise self._corrupt(entry, "the shard is missing") from None

    def _corrupt(self, entry: Entry, what: str) -> CorruptShardError:
        where = self._shards.place(entry.shard)
        remedy = (
            "repair it with: clipbert frames --repair, which checks every byte and decodes the damaged entries again"
            if isinstance(self._shards, LocalShards)
            else "delete that file there and publish it again with: clipbert frames --repair"
        )
        return CorruptShardError(
            f"{where}: {what} (media {entry.media}). The file changed after it was written; {remedy}"
        )


class CachedVideo:
    """One video of the cache: `times` (N,) float64 seconds in order; `images` (N, H, W, 3) uint8 RGB, upright, square
    pixels, decoded on first access."""

    def __init__(self, cache: FrameCache, entry: Entry) -> None:
        self.media = entry.media
        self.times: np.ndarray = entry.times
        self._cache = cache

    def __len__(self) -> int:
        return len(self.times)

    @functools.cached_property
    def images(self) -> np.ndarray:
        return self._cache.read(self.media, np.arange(len(self.times)))
