"""The sampled-frame cache: which frames, decoding them, storing them, reading them by random access."""

from clipbert.frame_cache.reader import CorruptShardError, FrameCache

__all__ = ["CorruptShardError", "FrameCache"]
