"""Random access to frames with decord: fast, and exact for the files that ingest selects for it."""

import contextlib
import os
from collections.abc import Iterator

import numpy as np

from clipbert.errors import first_line

BATCH_BYTES = 64 * 2**20
LOG_BYTES = 4000


class NotExactError(Exception):
    """File that decord cannot decode, or for which it showed a sign of wrong frames."""


class RandomAccess:
    """Video opened with decord, for use in this process and thread: `starts` (frames,) float64 ascending seconds from
    the first frame, and `duration` in seconds.

    Raises:
        NotExactError: decord cannot open the file or has no times for it; see also `read`.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        import decord

        with _native_errors():
            self._reader = decord.VideoReader(os.fspath(path), ctx=decord.cpu(0), num_threads=1)
            if not len(self._reader):
                raise NotExactError("decord finds no frame")
            spans = self._reader.get_frame_timestamp(range(len(self._reader))).astype(np.float64)
        self.starts: np.ndarray = spans[:, 0] - spans[0, 0]
        self.duration = float(spans[-1, 1] - spans[0, 0])
        if not (np.diff(self.starts) > 0).all() or not self.starts[-1] <= self.duration < np.inf:
            raise NotExactError("decord has no ascending times for it")

    def __len__(self) -> int:
        return len(self.starts)

    def read(self, indices: np.ndarray) -> Iterator[np.ndarray]:
        """Yield the frames `indices` (N,) one by one: (H, W, 3) uint8 RGB, upright, pixels as stored.

        Raises:
            NotExactError: a frame cannot be decoded, has an impossible shape, or the decoder logged an error meanwhile:
                it conceals damage without an exception, and differently from other decoders.
        """
        batch, start = 1, 0
        while start < len(indices):
            with _native_errors():
                pictures = self._reader.get_batch(indices[start : start + batch]).asnumpy()
            if pictures.ndim != 4 or pictures.shape[3] != 3:
                raise NotExactError(f"decord returns pictures of shape {pictures.shape[1:]}")
            yield from pictures
            start += batch
            batch = max(1, BATCH_BYTES // pictures[0].nbytes)


@contextlib.contextmanager
def _native_errors() -> Iterator[None]:
    """Raise `NotExactError` for decord's exceptions and for what its FFmpeg writes to stderr instead of failing."""
    import decord

    log = os.memfd_create("decord")
    stderr = os.dup(2)
    try:
        os.dup2(log, 2)
        try:
            yield
        finally:
            os.dup2(stderr, 2)
        said = os.pread(log, LOG_BYTES, 0).decode(errors="replace").strip()
        if said:
            raise NotExactError(f"its decoder reports: {first_line(said)}")
    except (RuntimeError, IndexError, ValueError, decord.DECORDError) as error:
        raise NotExactError(f"decord cannot decode it ({first_line(error)})") from error
    finally:
        os.close(stderr)
        os.close(log)
