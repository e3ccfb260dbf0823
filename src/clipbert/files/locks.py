"""Locks between processes, by the library filelock: one holder per lock file.

The lock belongs to the process, not to the file: the kernel releases it when the process ends, however it ends, and the
file that stays behind blocks nobody.
"""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from clipbert.files.leftovers import NO_LOCKS

__all__ = ["Timeout", "file_lock"]


@contextlib.contextmanager
def file_lock(
    path: Path,
    timeout_s: float = 0.0,
    on_wait: Callable[[], None] | None = None,
    on_unsupported: Callable[[OSError], None] | None = None,
) -> Iterator[None]:
    """Hold the lock of `path`, a file that is created next to what it protects.

    Args:
        timeout_s: how long to wait while another process holds the lock; -1: for as long as it does.
        on_wait: called once when another process holds the lock.
        on_unsupported: called when the file system has no locks; the block then runs without one.

    Raises:
        Timeout: another process still holds the lock after `timeout_s`.
        OSError: the lock file cannot be created, or the file system has no locks and `on_unsupported` is None.
    """
    # A soft lock, filelock's fallback on file systems without locks, would outlive a killed process.
    lock = FileLock(path, fallback_to_soft=False)
    try:
        try:
            lock.acquire(timeout=0)
        except Timeout:
            if on_wait is not None:
                on_wait()
            lock.acquire(timeout=timeout_s)
    except OSError as error:
        if on_unsupported is None or error.errno not in NO_LOCKS:
            raise
        on_unsupported(error)
    try:
        yield
    finally:
        lock.release()
