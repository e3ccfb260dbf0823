"""Atomic writes of files and folders: temporary name, flush to disk, rename."""

import contextlib
import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any

from clipbert.errors import ClipBertError
from clipbert.files import leftovers
from clipbert.files.exchange import exchange


def fsync_directory(path: Path) -> None:
    """Make the renames inside a directory durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def write_errors(path: Path) -> Iterator[None]:
    """Convert `OSError`s of a full disk or missing permission into user errors.

    Raises:
        ClipBertError: the disk is full, or `path` is not writable.
    """
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise ClipBertError(
                f"{path}: no space left on the device while writing; nothing was changed. "
                f"Free some space (df -h {path.parent}) and rerun the command."
            ) from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise ClipBertError(
                f"{path}: cannot be written ({error.strerror}). Give the folder {path.parent} write permission."
            ) from error
        raise


@contextlib.contextmanager
def atomic_write(path: Path, mode: str = "wb") -> Iterator[IO[Any]]:
    """Open a temporary file that replaces `path` when the block ends; on an error `path` stays as it was.

    The file's mode is 0666 minus the umask. Temporary files of killed processes for the same path are removed.

    Raises:
        ClipBertError: the disk is full or the folder cannot be written.
    """
    encoding = None if "b" in mode else "utf-8"
    with write_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        leftovers.remove_stale_temporaries([path.parent], path.name)
        descriptor, temporary = leftovers.create_file(path)
        try:
            # the file is renamed before it is closed: closing releases the lock that marks it as in use
            with os.fdopen(descriptor, mode, encoding=encoding) as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
                os.replace(temporary, path)
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary)
            raise
        fsync_directory(path.parent)


@contextlib.contextmanager
def atomic_directory(path: Path) -> Iterator[Path]:
    """Yield an empty sibling folder that replaces `path` when the block ends; on an error `path` stays as it was.

    The two folders are exchanged in one system call, so readers always find one of them. Where the kernel or the file
    system does not support the exchange, the old folder is renamed first: readers may find nothing for a moment, and
    after a kill in that moment the next command restores the old folder. If `path` is a symbolic link to a folder, the
    link stays and its target is replaced.

    Raises:
        ClipBertError: the disk is full, the folder cannot be written, or `path` is a file or a mount point.
    """
    if path.is_symlink() and path.is_dir():
        path = Path(os.path.realpath(path))
    with write_errors(path):
        if path.exists() and not path.is_dir():
            raise ClipBertError(f"{path}: is a file; expected a folder or nothing. Move it away and rerun the command.")
        path.parent.mkdir(parents=True, exist_ok=True)
        leftovers.remove_stale_temporaries([path.parent], path.name)
        lock, temporary = leftovers.create_folder(path)
        try:
            yield temporary
            _fsync_tree(temporary)
            _replace_directory(temporary, path)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        finally:
            os.close(lock)
        fsync_directory(path.parent)


def _fsync_tree(folder: Path) -> None:
    for directory, _, names in os.walk(folder):
        for name in names:
            file = Path(directory, name)
            if file.is_file() and not file.is_symlink():
                with file.open("rb") as handle:
                    os.fsync(handle.fileno())
        fsync_directory(Path(directory))


def _replace_directory(new: Path, path: Path) -> None:
    """Replace the folder `path` by `new`."""
    try:
        if not path.exists():
            os.rename(new, path)
            return
        if exchange(new, path):
            shutil.rmtree(new)
            return
        lock, old = leftovers.create_folder(path, leftovers.REPLACED)
        os.close(lock)
        held = leftovers.lock_folder(path)
        try:
            os.rename(path, old)
            try:
                os.rename(new, path)
            except BaseException:
                os.rename(old, path)
                raise
            shutil.rmtree(old)
        finally:
            os.close(held)
    except OSError as error:
        if error.errno in (errno.EBUSY, errno.EXDEV):
            raise ClipBertError(
                f"{path}: is a mount point and cannot be replaced ({error.strerror}). Mount its parent folder instead."
            ) from error
        raise


def create_with_umask(path: Path) -> None:
    """Create an empty file with mode 0666 minus the umask if none exists; SQLite never makes files group-writable."""
    with contextlib.suppress(FileExistsError):
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666))


def write_json(path: Path, value: Any, sort_keys: bool = True) -> None:
    """Write `value` as indented JSON, atomically."""
    with atomic_write(path, "w") as file:
        json.dump(value, file, indent=2, sort_keys=sort_keys, ensure_ascii=False)
        file.write("\n")


def create_json(path: Path, value: Any) -> bool:
    """Write `value` as JSON to a file that must not exist yet.

    Returns:
        Whether this process created the file; of several concurrent processes, exactly one does.

    Raises:
        ClipBertError: the disk is full or the folder cannot be written.
    """
    with write_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        lock, folder = leftovers.create_folder(path)
        try:
            write_json(folder / path.name, value)
            try:
                os.link(folder / path.name, path)
            except FileExistsError:
                return False
            except OSError:  # a file system without hard links
                if path.exists():
                    return False
                os.replace(folder / path.name, path)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
            os.close(lock)
        fsync_directory(path.parent)
    return True


def sha256_file(path: Path) -> str:
    """Return the hexadecimal SHA-256 of a file, read in blocks."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_sums(out: Path, files: Iterable[Path]) -> None:
    """Write the SHA-256 of files in the folder of `out` in the format of `sha256sum`."""
    lines = [f"{sha256_file(path)}  {path.name}\n" for path in files]
    with atomic_write(out, "w") as file:
        file.writelines(lines)


def changed_files(sums: Path) -> Iterator[tuple[Path, str, str | None]]:
    """Yield each file listed in `sums` that has changed.

    Yields:
        Its path, the SHA-256 that `write_sums` recorded, and the present one; None if the file is missing.
    """
    for line in sums.read_text(encoding="utf-8").rstrip("\n").split("\n"):
        expected, _, name = line.partition("  ")
        path = sums.parent / name
        found = sha256_file(path) if path.is_file() else None
        if found != expected:
            yield path, expected, found
