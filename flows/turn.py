"""One flow at a time in a project's folder, whoever started it: two would do the same work twice.

A lock of the operating system, not a concurrency limit of Prefect's: it ends with the process that holds it, however
that ends, while a limit's slot can stay taken after a server was restarted.
"""

import contextlib
import fcntl
from collections.abc import Callable, Iterator
from pathlib import Path


@contextlib.contextmanager
def turn(project: Path, log: Callable[[str], None]) -> Iterator[None]:
    """Wait until no other flow works in the folder `project`, saying so to `log`; then keep others waiting."""
    path = project / "artifacts" / ".flow.lock"
    path.parent.mkdir(exist_ok=True)
    with path.open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            log(f"Waiting: another run works in {project}")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield
