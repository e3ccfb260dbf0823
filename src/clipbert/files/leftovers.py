"""Temporary files and folders that are locked while in use and removed once their owner has died.

The owner holds an flock on its temporary file or folder as long as it uses it. The kernel releases the lock when the
process ends in any way, so a process that gets the lock knows that the owner is dead. Unlike process ids, this also
works across containers that share a folder. On a file system without locks nothing is removed.

The locks are plain `flock` calls on the temporary file or folder itself, through the descriptor that writes it;
`files.locks` (the library filelock) locks a separate file at a fixed path.
"""

import contextlib
import errno
import fcntl
import os
import re
import secrets
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

TEMPORARY, REPLACED = ".tmp", ".old"
PREFIX = "clipbert-"  # of folders in the system's temporary folder
NAME = re.compile(r"^\.(?P<target>.+)\.[a-z0-9_]{8}\.(?:tmp|old)$")
SCRATCH_NAME = re.compile(rf"^{PREFIX}[a-z0-9]{{16}}$")
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EBADF, errno.EINVAL)
ATTEMPTS = 100


def create_file(target: Path) -> tuple[int, Path]:
    """Create an empty, locked temporary file in the folder of `target`.

    Returns:
        Its open descriptor, which holds the lock, and its path. The mode is 0666 minus the umask.
    """
    for _ in range(ATTEMPTS):
        path = _sibling(target, TEMPORARY)
        with contextlib.suppress(FileExistsError):
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
            if _own(descriptor, path):
                return descriptor, path
            os.close(descriptor)
    raise FileExistsError(errno.EEXIST, "no free temporary name", str(target))


def create_folder(target: Path, suffix: str = TEMPORARY) -> tuple[int, Path]:
    """Create an empty, locked temporary folder in the folder of `target`; its mode is 0777 minus the umask.

    Returns:
        A descriptor that holds the lock, and its path.
    """
    return _create_folder(lambda: _sibling(target, suffix), 0o777)


@contextlib.contextmanager
def scratch_folder(parent: Path | None = None) -> Iterator[Path]:
    """Yield a private folder below the system's temporary folder; after a kill, a later command removes it."""
    place = parent or Path(tempfile.gettempdir())
    descriptor, path = _create_folder(lambda: place / f"{PREFIX}{secrets.token_hex(8)}", 0o700)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)
        os.close(descriptor)


def lock_folder(path: Path) -> int:
    """Open a folder, lock it where the file system supports locks, and return the descriptor."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    with contextlib.suppress(OSError):
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return descriptor


def remove_stale_temporaries(folders: Iterable[Path], target: str | None = None) -> list[Path]:
    """Remove temporary files and folders of dead processes directly inside `folders`.

    A replaced folder that has no successor (a kill on a file system without atomic exchange) is restored.

    Args:
        folders: where to look; folders that do not exist are skipped.
        target: only temporary files for this file or folder name; None: for any.

    Returns:
        The paths that were removed or restored.
    """
    removed = []
    for folder in folders:
        with contextlib.suppress(OSError):
            names = sorted(os.listdir(folder), reverse=True)
            for name in names:
                found = NAME.match(name)
                if found is not None and target in (None, found["target"]):
                    path, successor = folder / name, folder / found["target"]
                    if _remove(path, successor if name.endswith(REPLACED) else None):
                        removed.append(path)
    return removed


def remove_scratch_folders() -> list[Path]:
    """Remove scratch folders of this user's dead processes from the system's temporary folder and return them."""
    removed = []
    with contextlib.suppress(OSError), os.scandir(tempfile.gettempdir()) as entries:
        for entry in entries:
            if SCRATCH_NAME.match(entry.name) and entry.is_dir(follow_symlinks=False):
                with contextlib.suppress(OSError):
                    if entry.stat(follow_symlinks=False).st_uid == os.getuid() and _remove(Path(entry.path), None):
                        removed.append(Path(entry.path))
    return removed


def project_folders(root: Path) -> list[Path]:
    """Return the folders in which commands write: the root, data/, mlflow/ and every folder below artifacts/."""
    below = [Path(folder) for folder, _, _ in os.walk(root / "artifacts")]
    return [root, root / "data", root / "mlflow", *below]


def umask() -> int:
    """Return the umask of this process without changing it."""
    with contextlib.suppress(OSError, StopIteration, ValueError):
        lines = Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines()
        return int(next(line for line in lines if line.startswith("Umask:")).split()[1], 8)
    current = os.umask(0o077)
    os.umask(current)
    return current


def follow_umask(path: Path) -> None:
    """Set the mode of a file that another library created to 0666 minus the umask."""
    path.chmod(0o666 & ~umask())


def _sibling(target: Path, suffix: str) -> Path:
    return target.parent / f".{target.name}.{secrets.token_hex(4)}{suffix}"


def _create_folder(name: Callable[[], Path], mode: int) -> tuple[int, Path]:
    path = Path()
    for _ in range(ATTEMPTS):
        path = name()
        with contextlib.suppress(FileExistsError):
            os.mkdir(path, mode)
            with contextlib.suppress(FileNotFoundError):
                descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
                if _own(descriptor, path):
                    return descriptor, path
                os.close(descriptor)
    raise FileExistsError(errno.EEXIST, "no free temporary name", str(path))


def _own(descriptor: int, path: Path) -> bool:
    """Lock a new file or folder; return False if another process removed it before it was locked."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        return True
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except FileNotFoundError:
        return False


def _remove(path: Path, successor: Path | None) -> bool:
    """Remove a temporary path of a dead owner; restore it if it is the replaced folder of a missing `successor`."""
    try:
        if path.is_symlink():
            return False
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not os.path.samestat(os.fstat(descriptor), os.stat(path)):
            return False
        if successor is not None and not successor.exists() and any(path.iterdir()):
            os.rename(path, successor)
        elif path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            os.unlink(path)
        return True
    except OSError:  # in use, or already removed
        return False
    finally:
        os.close(descriptor)
