"""Folder of the cache on disk: one builder at a time, and an atomic commit of the new cache."""

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from clipbert.errors import ClipBertError
from clipbert.files.atomic import fsync_directory
from clipbert.files.locks import Timeout, file_lock
from clipbert.frame_cache.index import INDEX_FILE, QUARANTINE_FILE, Index
from clipbert.frame_cache.shards import SHARDS

DECODED_FOLDER = ".decoded"
NEXT_FOLDER = ".next"
READY_FOLDER = ".ready"
OLDER_INDEX = "index.parquet"


@contextlib.contextmanager
def exclusive(out: Path) -> Iterator[None]:
    """Hold the lock on the cache `out`; the kernel releases it when the process ends.

    Raises:
        ClipBertError: another process builds the cache, or `out` holds other files.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(file_lock(out.parent / f".{out.name}.lock"))
        except Timeout:
            raise ClipBertError(
                f"{out}: another `clipbert frames` is building this cache. Wait for it or stop it, then rerun."
            ) from None
        ours = (INDEX_FILE, OLDER_INDEX, READY_FOLDER, DECODED_FOLDER, NEXT_FOLDER)
        known = any((out / name).exists() for name in ours) or any(out.glob(SHARDS))
        if out.exists() and any(out.iterdir()) and not known:
            raise ClipBertError(f"{out}: holds other files than a frame cache. Choose another folder, or empty it.")
        yield


def set_aside(out: Path) -> None:
    """Move what a killed run decoded to where this run looks for it."""
    decoded = out / DECODED_FOLDER
    for path in sorted((out / NEXT_FOLDER).glob("*.tar")):
        decoded.mkdir(exist_ok=True)
        os.replace(path, decoded / f"{sum(1 for _ in decoded.iterdir()):06d}.tar")
    shutil.rmtree(out / NEXT_FOLDER, ignore_errors=True)


def commit(out: Path) -> None:
    """Commit the cache in `.next/`: from here on, an interrupted replacement is completed and not undone."""
    folder = out / NEXT_FOLDER
    for path in folder.iterdir():
        with path.open("rb") as file:
            os.fsync(file.fileno())
    fsync_directory(folder)
    os.replace(folder, out / READY_FOLDER)
    fsync_directory(out)


def complete_exchange(out: Path) -> None:
    """Move the committed cache of `.ready/` into place; safe to interrupt anywhere and to call again.

    New shards are added first, the index is replaced last: a concurrent reader sees either the old or the new cache.
    """
    ready = out / READY_FOLDER
    if (ready / INDEX_FILE).is_file():
        for path in (*ready.glob(SHARDS), ready / QUARANTINE_FILE, ready / INDEX_FILE):
            if path.exists():
                os.replace(path, out / path.name)
        fsync_directory(out)
        remove_strays(out, {entry.shard for entry in Index(out / INDEX_FILE)})
    shutil.rmtree(ready, ignore_errors=True)


def remove_strays(out: Path, shards: set[str]) -> None:
    """Remove the shards that are not in the index, and the index of an older version."""
    for path in out.glob(SHARDS):
        if path.name not in shards:
            path.unlink()
    (out / OLDER_INDEX).unlink(missing_ok=True)


def remove_build_folders(out: Path) -> None:
    """Remove everything that is not the cache itself, and the folder if it is empty."""
    for name in (NEXT_FOLDER, DECODED_FOLDER):
        shutil.rmtree(out / name, ignore_errors=True)
    with contextlib.suppress(OSError):
        out.rmdir()
