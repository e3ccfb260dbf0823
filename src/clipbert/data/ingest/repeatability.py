"""Check that a video decodes to the same pictures each time.

FFmpeg's VP8 decoder leaves parts of a damaged picture unwritten without an error. They show what an earlier picture
left in the reused buffer, so they depend on which buffers are free, that is, on what the program does with earlier
pictures.
"""

import collections
import contextlib
import hashlib
import itertools
import os
from collections.abc import Generator
from typing import Any

import numpy as np

from clipbert.video.sequential import shown_frames

# Of 600 mutated files of seven codecs, pictures of VP8 alone depended on the buffers.
UNREPEATABLE_CODECS = frozenset({"vp8"})
# Pictures kept from being reused in the second decode; from 4 on every such file among those 600 was found.
HELD = 8
UNREPEATABLE = "decodes differently from one decode to the next"


def first_difference(path: str | os.PathLike[str]) -> float | None:
    """Decode a video twice, with different buffers to reuse.

    Returns:
        The seconds from its first frame at which the two decodes differ first; None where they are equal.

    Raises:
        av.FFmpegError: the file cannot be read.
    """
    origin = None
    with (
        contextlib.closing(_digests(path, 0)) as first,
        contextlib.closing(_digests(path, HELD)) as second,
    ):
        for one, other in itertools.zip_longest(first, second):
            start = (one or other)[0]
            origin = start if origin is None else origin
            if one != other:
                return float(max(0.0, start - origin))
    return None


def _digests(path: str | os.PathLike[str], held: int) -> Generator[Any, None, None]:
    """Yield the start of each frame in seconds and a digest of its pixels; the last `held` frames are kept alive."""
    kept: collections.deque[Any] = collections.deque(maxlen=held)
    with contextlib.closing(shown_frames(path)) as frames:
        for shown in frames:
            digest = hashlib.blake2b(digest_size=16)
            for plane in shown.frame.planes:
                # Lines are padded at the end; the padding holds arbitrary bytes.
                rows = np.frombuffer(plane, np.uint8).reshape(plane.height, plane.line_size)
                digest.update(rows[:, : plane.width].tobytes())
            kept.append(shown.frame)
            start = shown.start
            del shown
            yield start, digest.digest()
