"""The lock of a project's folder: one flow at a time works in it.

It is a lock of the operating system, not a concurrency limit of Prefect: it ends with the process that holds it,
however that ends, while a limit's slot can stay taken after a server was restarted.
"""

import contextlib
import fcntl
from collections.abc import Callable, Iterator
from pathlib import Path

from prefect import get_run_logger
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import State
from prefect.context import FlowRunContext
from prefect.states import Running

WAITING = "AwaitingProjectLock"


@contextlib.contextmanager
def turn(project: Path, on_wait: Callable[[str], None], on_resume: Callable[[], None] | None = None) -> Iterator[None]:
    """Hold the lock of the folder `project`.

    Args:
        project: the folder.
        on_wait: called with a message when another flow has the lock.
        on_resume: called when that flow has ended and this one has the lock.
    """
    path = project / "artifacts" / ".flow.lock"
    path.parent.mkdir(exist_ok=True)
    with path.open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            on_wait(f"Waiting: another run works in {project}")
            fcntl.flock(lock, fcntl.LOCK_EX)
            if on_resume is not None:
                on_resume()
        yield


def flow_turn(project: Path) -> contextlib.AbstractContextManager[None]:
    """Return the lock of `project` for the current flow run, which shows the state AwaitingProjectLock while it waits.

    The state is of Prefect's type RUNNING, for its process runs and holds its slots; it turns back to Running.
    """
    return turn(project, lambda message: _show(Running(name=WAITING, message=message)), lambda: _show(Running()))


def _show(state: State) -> None:
    """Set the state of the current flow run. A server that does not take it costs the display, not the run."""
    logger, context = get_run_logger(), FlowRunContext.get()
    logger.info(state.message or "The project's folder is free: running")
    if context is None or context.flow_run is None:
        return
    try:
        with get_client(sync_client=True) as client:
            client.set_flow_run_state(context.flow_run.id, state)
    except Exception as error:
        logger.warning("Prefect does not show the state %s: %s", state.name, error)
