"""Lock of a project's folder: one flow at a time works in it.

The lock is the operating system's, not a concurrency limit of Prefect: the kernel releases it when the process that
holds it ends, while a limit's slot can stay taken after a restart of the server.
"""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

from prefect import get_run_logger
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import State
from prefect.context import FlowRunContext
from prefect.states import Running

from clipbert.files.locks import file_lock

WAITING = "AwaitingProjectLock"


@contextlib.contextmanager
def project_lock(
    project: Path, on_wait: Callable[[str], None], on_resume: Callable[[], None] | None = None
) -> Iterator[None]:
    """Hold the lock of the folder `project`; wait for as long as another flow holds it.

    Args:
        on_wait: called with a message when another flow has the lock.
        on_resume: called when that flow has ended and this one has the lock.
    """
    path = project / "artifacts" / ".flow.lock"
    path.parent.mkdir(exist_ok=True)
    waited = False

    def waiting() -> None:
        nonlocal waited
        waited = True
        on_wait(f"Waiting: another run works in {project}")

    with file_lock(path, -1, waiting):
        if waited and on_resume is not None:
            on_resume()
        yield


def flow_run_lock(project: Path) -> contextlib.AbstractContextManager[None]:
    """Return the lock of `project` for the current flow run, which shows the state AwaitingProjectLock while it waits.

    The state has Prefect's type RUNNING, because the process of the run is alive and keeps its slots.
    """
    return project_lock(
        project, lambda message: _show(Running(name=WAITING, message=message)), lambda: _show(Running())
    )


def _show(state: State) -> None:
    """Set the state of the current flow run; log a warning if the server does not accept it."""
    logger, context = get_run_logger(), FlowRunContext.get()
    logger.info(state.message or "The project's folder is free: running")
    if context is None or context.flow_run is None:
        return
    try:
        with get_client(sync_client=True) as client:
            client.set_flow_run_state(context.flow_run.id, state)
    except Exception as error:
        logger.warning("Prefect does not show the state %s: %s", state.name, error)
