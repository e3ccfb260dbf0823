"""Lock of a task: one promotion, rollback or registration at a time on this machine."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from clipbert.console import errors
from clipbert.files.atomic import write_errors
from clipbert.files.locks import Timeout, file_lock


@contextlib.contextmanager
def task_lock(root: Path, task: str, wait: bool = True) -> Iterator[bool]:
    """Hold the lock of a task; a process that waits for it says so on stderr.

    Args:
        root: the project's folder.
        task: the task.
        wait: wait for the process that holds the lock.

    Yields:
        Whether the lock was acquired; always True with `wait`.

    Raises:
        ClipBertError: the lock file cannot be created.
    """
    path = root / "mlflow" / f".promote-{task}.lock"

    def on_wait() -> None:
        if wait:
            errors.print(f"Waiting for another promotion, rollback or registration of {task}")

    def on_unsupported(error: OSError) -> None:
        errors.print(
            f"{path}: this file system has no locks ({error.strerror}). Run one promotion, rollback or "
            f"registration of {task} at a time.",
        )

    with contextlib.ExitStack() as stack:
        acquired = True
        with write_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                stack.enter_context(file_lock(path, -1 if wait else 0, on_wait, on_unsupported))
            except Timeout:
                acquired = False
        yield acquired
