"""Frame cache: sampled frames of all media, decoded once and read by random access."""

from clipbert.frame_cache.reader import CorruptShardError, FrameCache

__all__ = ["CorruptShardError", "FrameCache"]
