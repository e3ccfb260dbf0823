"""The cache's folder on disk: one builder at a time, and an old cache exchanged for a new one at a single instant."""

import contextlib
import fcntl
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from clipbert.errors import ClipBertError
from clipbert.files import fsync_directory
from clipbert.frames.index import INDEX_FILE, READY_FOLDER, SHARDS, read_index

DECODED_FOLDER = ".decoded"
NEXT_FOLDER = ".next"


@contextlib.contextmanager
def exclusive(out: Path) -> Iterator[None]:
    """Hold the right to change the cache `out`; the kernel takes it back when the process ends, however it ends.

    Raises:
        ClipBertError: another process holds it, or `out` is a folder of something else.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    with (out.parent / f".{out.name}.lock").open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ClipBertError(
                f"{out}: another `clipbert frames` is building this cache. Wait for it or stop it, then run again."
            ) from None
        ours = (INDEX_FILE, READY_FOLDER, DECODED_FOLDER, NEXT_FOLDER)
        if out.exists() and any(out.iterdir()) and not any((out / name).exists() for name in ours):
            raise ClipBertError(f"{out}: holds files and no frame cache. Choose another folder, or empty this one.")
        yield


def commit(out: Path) -> None:
    """Declare the cache in `.next/` finished: from here on a killed exchange is completed, not undone."""
    folder = out / NEXT_FOLDER
    for path in folder.iterdir():
        with path.open("rb") as file:
            os.fsync(file.fileno())
    fsync_directory(folder)
    os.replace(folder, out / READY_FOLDER)
    fsync_directory(out)


def complete_exchange(out: Path) -> None:
    """Put the finished cache of `.ready/` in the place of the old one; may be cut short anywhere and called again."""
    ready = out / READY_FOLDER
    if (ready / INDEX_FILE).is_file():
        shards = {entry.shard for entry in read_index(ready)[0]}
        (out / INDEX_FILE).unlink(missing_ok=True)
        for name in shards:
            if (ready / name).exists():
                os.replace(ready / name, out / name)
        for stale in out.glob(SHARDS):
            if stale.name not in shards:
                stale.unlink()
        os.replace(ready / INDEX_FILE, out / INDEX_FILE)
        fsync_directory(out)
    for folder in (ready, out / NEXT_FOLDER):
        shutil.rmtree(folder, ignore_errors=True)


def remove_leftovers(out: Path) -> None:
    """Remove everything that is not the cache itself, and a folder in which nothing is left."""
    for name in (NEXT_FOLDER, DECODED_FOLDER):
        shutil.rmtree(out / name, ignore_errors=True)
    with contextlib.suppress(OSError):
        out.rmdir()
