"""Checks of the parameters with which a flow may be started from the Prefect UI or API."""

import os
from pathlib import Path

from clipbert.config.tasks import check_task
from clipbert.errors import ClipBertError

ROOT_VARIABLE = "CLIPBERT_ROOT"


class ParameterError(Exception):
    """A flow was started with a parameter that is not allowed; the message names it and what is allowed."""


def project_folder(root: str) -> Path:
    """Return the folder in which a flow works.

    That is the folder that CLIPBERT_ROOT names, as for a worker, or the current folder. The parameter `root` may spell
    it in another way; it cannot choose another folder, since a folder decides which commands the stages run.

    Raises:
        ParameterError: `root` is another folder.
    """
    allowed = Path(os.environ.get(ROOT_VARIABLE) or ".").resolve()
    if "\0" in root or Path(root).resolve() != allowed:
        raise ParameterError(
            f"root: {root!r} is not the project's folder. Expected {str(allowed)!r} or '.'. To work in another "
            f"project, start a worker with {ROOT_VARIABLE} set to its folder."
        )
    return allowed


def check_task_name(task: str) -> str:
    """Return `task`.

    Raises:
        ParameterError: the project has no such task.
    """
    try:
        check_task(task)
    except ClipBertError as error:
        raise ParameterError(f"task: {error}") from error
    return task
