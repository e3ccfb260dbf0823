"""MLflow's web application behind the access checks of `clipbert.web_guard` (`mlflow server --app-name clipbert`)."""

import os

from starlette.types import ASGIApp

from clipbert.errors import ClipBertError
from clipbert.web_guard import WebGuard, read_access

ACCESS_VARIABLE = "CLIPBERT_ACCESS"


def create_app() -> ASGIApp:
    """Return MLflow's application behind the guard, with the access rules of the environment variable CLIPBERT_ACCESS.

    Raises:
        ClipBertError: the variable is missing or damaged. A server without access checks is never started.
    """
    try:
        access = read_access(os.environ[ACCESS_VARIABLE])
    except (KeyError, TypeError, ValueError) as error:
        raise ClipBertError(
            f"{ACCESS_VARIABLE}: missing or damaged; it contains the access rules. Start MLflow with `make ui` "
            "(docs/how-to/security.md)."
        ) from error
    # MLflow creates its application and opens its store when this module is imported.
    from mlflow.server.fastapi_app import app

    return WebGuard(app, access)
