"""Validation of the parameters of flows that are started from the Prefect UI or API."""

import os
from pathlib import Path

from clipbert.config.tasks import check_task
from clipbert.errors import ClipBertError

ROOT_VARIABLE = "CLIPBERT_ROOT"


class ParameterError(Exception):
    """A parameter has an invalid value; the message names it and the expected values."""


def project_folder(root: str) -> Path:
    """Return the folder in which a flow works: the one that CLIPBERT_ROOT names, or the current folder.

    The parameter `root` must name the same folder, since the folder determines which commands the stages run.

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
    """Return `task` after a check.

    Raises:
        ParameterError: there is no such task.
    """
    try:
        check_task(task)
    except ClipBertError as error:
        raise ParameterError(f"task: {error}") from error
    return task
