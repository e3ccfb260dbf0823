"""Files that are whole or absent: written under a temporary name, flushed to disk, renamed."""

import contextlib
import errno
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any

from clipbert.errors import ClipBertError


def fsync_directory(path: Path) -> None:
    """Make the renames inside a directory durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def write_errors(path: Path) -> Iterator[None]:
    """Turn the operating system's refusal to write `path` into a message that says what to do.

    Raises:
        ClipBertError: the disk is full, or the place is read-only or not ours.
    """
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise ClipBertError(
                f"{path}: no space left on the device while writing; nothing was changed. "
                f"Free some space (df -h {path.parent}) and run the command again."
            ) from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise ClipBertError(
                f"{path}: cannot be written ({error.strerror}). Give the folder {path.parent} write permission."
            ) from error
        raise


@contextlib.contextmanager
def atomic_write(path: Path, mode: str = "wb") -> Iterator[IO[Any]]:
    """Open a file that appears at `path` whole when the block ends, and not at all when it raises.

    Raises:
        ClipBertError: the disk is full or the folder cannot be written.
    """
    encoding = None if "b" in mode else "utf-8"
    with write_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
        try:
            with os.fdopen(descriptor, mode, encoding=encoding) as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.chmod(name, 0o644)
            os.replace(name, path)
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(name)
            raise
        fsync_directory(path.parent)


@contextlib.contextmanager
def atomic_directory(path: Path) -> Iterator[Path]:
    """Yield an empty sibling folder that replaces `path` when the block ends; on an error `path` stays as it was.

    Raises:
        ClipBertError: the disk is full or the folder cannot be written.
    """
    with write_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp"))
        try:
            yield temporary
            for file in temporary.rglob("*"):
                if file.is_file():
                    with file.open("rb") as handle:
                        os.fsync(handle.fileno())
            os.chmod(temporary, 0o755)
            if path.exists():
                old = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}.", suffix=".old"))
                os.replace(path, old)
                os.replace(temporary, path)
                shutil.rmtree(old)
            else:
                os.replace(temporary, path)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        fsync_directory(path.parent)


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON with sorted keys, atomically."""
    with atomic_write(path, "w") as file:
        json.dump(value, file, indent=2, sort_keys=True, ensure_ascii=False)
        file.write("\n")


def create_json(path: Path, value: Any) -> bool:
    """Write `value` to a file that does not exist yet; of several processes one succeeds, whether this one did.

    Raises:
        ClipBertError: the disk is full or the folder cannot be written.
    """
    with write_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp") as folder:
            write_json(Path(folder, path.name), value)
            try:
                os.link(Path(folder, path.name), path)
            except FileExistsError:
                return False
            except OSError:  # a file system without hard links
                if path.exists():
                    return False
                os.replace(Path(folder, path.name), path)
        fsync_directory(path.parent)
    return True


def sha256_file(path: Path) -> str:
    """The hexadecimal SHA-256 of a file's bytes, read in blocks."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_sums(out: Path, files: Iterable[Path]) -> None:
    """Write the SHA-256 of files beside `out`, as sha256sum writes and checks it."""
    lines = [f"{sha256_file(path)}  {path.name}\n" for path in files]
    with atomic_write(out, "w") as file:
        file.writelines(lines)


def changed_files(sums: Path) -> Iterator[tuple[Path, str, str | None]]:
    """The files beside `sums` that are not what `write_sums` saw: each with the SHA-256 it had and the one it has, None
    where it is missing."""
    for line in sums.read_text(encoding="utf-8").rstrip("\n").split("\n"):
        expected, _, name = line.partition("  ")
        path = sums.parent / name
        found = sha256_file(path) if path.is_file() else None
        if found != expected:
            yield path, expected, found
