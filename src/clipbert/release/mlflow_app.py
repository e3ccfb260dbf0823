"""MLflow's web application behind the access checks of `clipbert.web_guard` (`mlflow server --app-name clipbert`)."""

import os

from starlette.types import ASGIApp

from clipbert.errors import ClipBertError
from clipbert.web_guard import WebGuard, read_access

ACCESS_VARIABLE = "CLIPBERT_ACCESS"


def create_app() -> ASGIApp:
    """Return MLflow's application behind the guard; the environment variable CLIPBERT_ACCESS says who may use it.

    Raises:
        ClipBertError: the variable is missing or damaged. An unguarded server is never started.
    """
    try:
        access = read_access(os.environ[ACCESS_VARIABLE])
    except (KeyError, TypeError, ValueError) as error:
        raise ClipBertError(
            f"{ACCESS_VARIABLE} does not say who may use MLflow. Start it with `make ui` (docs/how-to/security.md)."
        ) from error
    # MLflow makes its application, with the store that it serves, when this module is imported.
    from mlflow.server.fastapi_app import app

    return WebGuard(app, access)
