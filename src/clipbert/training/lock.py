"""Lock that lets one training of a task run at a time on this machine."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from clipbert.console import console
from clipbert.errors import ClipBertError
from clipbert.files.atomic import write_errors
from clipbert.files.locks import Timeout, file_lock

# A training whose DVC or torchrun was killed gets this long to save its state and exit: DVC's own lock ends with DVC.
WAIT_S = 20.0


@contextlib.contextmanager
def training_lock(folder: Path) -> Iterator[None]:
    """Hold the lock of a task's checkpoints.

    Args:
        folder: the checkpoints of the task.

    Raises:
        ClipBertError: another training of the task is running, or the folder is not writable.
    """
    path = folder / ".lock"

    def on_unsupported(error: OSError) -> None:
        console.print(
            f"{path}: this file system has no locks ({error.strerror}). Run one training of a task at a time."
        )

    with contextlib.ExitStack() as stack:
        with write_errors(path):
            folder.mkdir(parents=True, exist_ok=True)
            try:
                stack.enter_context(file_lock(path, WAIT_S, on_unsupported=on_unsupported))
            except Timeout:
                pid = path.read_text(encoding="utf-8").strip()
                raise ClipBertError(
                    f"{folder}: another training of this task is running, process {pid}. Wait for it, or stop it with "
                    f"`kill {pid}`; the next run resumes from its last checkpoint."
                ) from None
            path.write_text(str(os.getpid()), encoding="utf-8")
        yield
