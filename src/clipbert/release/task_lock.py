"""Lock that lets one promotion, rollback or registration of a task run at a time on this machine."""

import contextlib
import fcntl
from collections.abc import Iterator
from pathlib import Path

from clipbert.console import errors
from clipbert.files.atomic import write_errors


@contextlib.contextmanager
def task_lock(root: Path, task: str, wait: bool = True) -> Iterator[bool]:
    """Hold the lock of a task; a process that has to wait says so on stderr.

    Args:
        root: the project's folder.
        wait: when False, do not wait for the process that holds the lock.

    Yields:
        whether the lock is held; always True with `wait`.

    Raises:
        ClipBertError: the lock file cannot be created.
    """
    path = root / "mlflow" / f".promote-{task}.lock"
    with write_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = path.open("w")
    with lock:
        held = True
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if wait:
                errors.print(f"Waiting for another promotion, rollback or registration of {task}", markup=False)
                fcntl.flock(lock, fcntl.LOCK_EX)
            held = wait
        except OSError as error:
            errors.print(
                f"{path}: this file system has no locks ({error.strerror}). Run one promotion, rollback or "
                f"registration of {task} at a time.",
                markup=False,
            )
        yield held
