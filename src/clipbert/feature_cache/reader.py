"""Reader of the feature cache: the frame cache's files and checksums, with arrays for pictures."""

import math
import os
from typing import Any

import numpy as np

from clipbert.errors import ClipBertError
from clipbert.frame_cache import FrameCache
from clipbert.frame_cache.index import Entry
from clipbert.frame_cache.reader import CorruptShardError

FRAMES = "frames"  # key of the settings that describes the frames; the others describe the backbone
DTYPES = {"f16": "<f2", "f32": "<f4"}  # by extension of the members


class FeatureCache(FrameCache):
    """Features of every frame of a frame cache, in the order of its frames.

    `cache.read(media, indices)` gives float arrays: (len(indices), channels), the mean over the cells of the feature
    map, or (len(indices), channels, rows, columns). `cache.settings` names the backbone, its input and the frames.

    Raises:
        ClipBertError: `path` has no cache, or the index is damaged.
        CorruptShardError: features fail their checksum, or their shard is missing or too short.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        super().__init__(path)
        if FRAMES not in self.settings:
            raise ClipBertError(f"{self.path}: a frame cache, expected a feature cache (artifacts/features/...).")

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the features of one frame."""
        return tuple(self.settings["shape"])

    @property
    def nbytes(self) -> int:
        """Bytes of all features."""
        itemsize = np.dtype(self._dtype).itemsize
        return itemsize * math.prod(self.shape) * sum(len(entry.times) for entry in self._index)

    @property
    def _dtype(self) -> str:
        return DTYPES[self.settings["extension"]]

    def _empty(self, entry: Entry, count: int) -> np.ndarray:
        return np.empty((count, *self.shape), self._dtype)

    def _decode(self, data: bytes) -> np.ndarray:
        return np.frombuffer(data, self._dtype).reshape(self.shape)

    def _corrupt(self, entry: Entry, what: str) -> CorruptShardError:
        return CorruptShardError(
            f"{self._shards.place(entry.shard)}: {what} (media {entry.media}). The file changed after it was written; "
            f"remove the folder {self.path} and rerun the command, which computes the features again"
        )


def backbone_settings(settings: dict[str, Any]) -> dict[str, Any]:
    """Return the settings of a feature cache that describe the backbone and its input."""
    return {name: value for name, value in settings.items() if name != FRAMES}
