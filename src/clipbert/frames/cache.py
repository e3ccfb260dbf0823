"""Reading the frame cache: any frame of any video by one positioned read, checked before it is believed."""

import functools
import io
import os
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
from PIL import Image

from clipbert.errors import ClipBertError
from clipbert.frames.index import Entry, Settings, read_index


class CorruptShardError(ClipBertError):
    """Bytes of a shard are not those that were written."""


class FrameCache:
    """The candidate frames of every video, as `clipbert frames` stored them in the folder `path`.

    Opens its files when they are first needed, in each process of its own: it pickles as its path and may be used on
    both sides of a fork, and from several threads.

    Raises:
        ClipBertError: there is no cache at `path`, its index is damaged, or a media is asked for that it does not hold.
        CorruptShardError: a frame that is read fails its checksum, or its shard is missing or too short.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._shards: dict[str, IO[bytes]] = {}
        _ = self._index

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "_shards": {}}

    def __repr__(self) -> str:
        return f"FrameCache({str(self.path)!r}): {len(self)} media"

    @functools.cached_property
    def _index(self) -> tuple[dict[str, Entry], Settings]:
        entries, settings = read_index(self.path)
        return {entry.media: entry for entry in entries}, settings

    @property
    def media(self) -> list[str]:
        """What the cache holds, sorted."""
        return list(self._index[0])

    @property
    def settings(self) -> dict[str, Any]:
        """What decided the frames: fps, size, quality, max_frames and the decoders' versions."""
        return dict(self._index[1].decoding)

    def __len__(self) -> int:
        return len(self._index[0])

    def __iter__(self) -> Iterator[str]:
        return iter(self._index[0])

    def __contains__(self, media: object) -> bool:
        return media in self._index[0]

    def __getitem__(self, media: str) -> "CachedVideo":
        return CachedVideo(self, self._entry(media))

    def num_frames(self, media: str) -> int:
        """The number N of candidate frames of a video."""
        return len(self._entry(media).times)

    def read(self, media: str, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        """Decode the frames `indices` of a video, and no others: (len(indices), H, W, 3) uint8 RGB.

        Raises:
            IndexError: an index outside 0 to N - 1.
        """
        entry = self._entry(media)
        wanted = np.asarray(indices, dtype=np.int64).reshape(-1)
        outside = wanted[(wanted < 0) | (wanted >= len(entry.times))]
        if outside.size:
            raise IndexError(f"{media}: frame {outside[0]} of {len(entry.times)}")
        frames = np.empty((len(wanted), entry.height, entry.width, 3), np.uint8)
        first: dict[int, int] = {}
        for place, index in enumerate(wanted.tolist()):
            frames[place] = frames[first[index]] if index in first else self._decode(entry, index)
            first.setdefault(index, place)
        return frames

    def _entry(self, media: str) -> Entry:
        try:
            return self._index[0][media]
        except KeyError:
            raise ClipBertError(
                f"{media}: not in the frame cache {self.path}, which holds {len(self)} media. "
                "If it was added since, run: clipbert ingest, then clipbert frames"
            ) from None

    def _decode(self, entry: Entry, index: int) -> np.ndarray:
        data = self._bytes(entry, int(entry.frame_offsets[index]), int(entry.frame_lengths[index]))
        if zlib.crc32(data) != entry.frame_crc32s[index]:
            raise self._corrupt(entry, f"frame {index} fails its checksum")
        with Image.open(io.BytesIO(data)) as image:
            return np.asarray(image.convert("RGB"))

    def _bytes(self, entry: Entry, offset: int, length: int) -> bytes:
        shard = self._shards.get(entry.shard)
        if shard is None:
            try:
                # unbuffered, read by position: nothing is shared with another thread or a forked process
                shard = self._shards.setdefault(entry.shard, (self.path / entry.shard).open("rb", buffering=0))
            except FileNotFoundError:
                raise self._corrupt(entry, "the shard is missing") from None
        data = os.pread(shard.fileno(), length, offset)
        if len(data) != length:
            raise self._corrupt(entry, "the shard is too short")
        return data

    def _corrupt(self, entry: Entry, what: str) -> CorruptShardError:
        return CorruptShardError(
            f"{self.path / entry.shard}: {what} (media {entry.media}). The file changed after it was written; "
            "mend it with: clipbert frames, which checks every entry and decodes the damaged ones again"
        )


class CachedVideo:
    """One video of the cache: `times` (N,) float64 seconds, `images` (N, H, W, 3) uint8 RGB, decoded when first asked
    for; upright, square pixels, in time order."""

    def __init__(self, cache: FrameCache, entry: Entry) -> None:
        self.media = entry.media
        self.times: np.ndarray = entry.times
        self._cache = cache

    def __len__(self) -> int:
        return len(self.times)

    @functools.cached_property
    def images(self) -> np.ndarray:
        return self._cache.read(self.media, np.arange(len(self.times)))
