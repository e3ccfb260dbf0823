"""Corrections to MLflow's scoring server: no stack traces in answers, and no silently dropped parameters."""

import functools
import logging
import sys
from types import ModuleType
from typing import Any

from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import BAD_REQUEST
from mlflow.pyfunc import PyFuncModel

logger = logging.getLogger(__name__)

SERVER = "mlflow.pyfunc.scoring_server"


def requested_params() -> dict[str, Any]:
    """Return the `params` of the current request before MLflow removes unknown names; empty outside of MLflow.

    MLflow drops unknown names with a warning in the server's log, so a misspelled parameter would be ignored without a
    message to the client. There is no hook before that, so the request is read from the frame of
    `PyFuncModel.predict`, which calls the model.
    """
    frame = sys._getframe()
    while frame.f_back is not None:
        frame = frame.f_back
        if frame.f_code is PyFuncModel.predict.__code__:
            params = frame.f_locals.get("params")
            return dict(params) if isinstance(params, dict) else {}
    return {}


def harden_scoring_server() -> None:
    """Make MLflow's scoring server answer malformed requests with status 400 and without stack traces.

    Unchanged, it sends the stack trace of a CSV or Parquet body that it cannot parse, and status 500 for a request
    without a content type or with JSON that is nested too deeply. Does nothing outside of a scoring server.
    """
    server: ModuleType | None = sys.modules.get(SERVER)
    if server is None or f"{SERVER}.app" not in sys.modules or hasattr(server.invocations, "__wrapped__"):
        return
    server._handle_serving_error = functools.partial(server._handle_serving_error, include_traceback=False)  # type: ignore[attr-defined]
    original = server.invocations

    @functools.wraps(original)
    def invocations(data: Any, content_type: str | None, model: Any, input_schema: Any) -> Any:
        if not content_type:
            raise MlflowException("The header Content-Type is missing: expected application/json.", BAD_REQUEST)
        try:
            return original(data, content_type, model, input_schema)
        except MlflowException:
            raise
        except Exception:
            # The model raises only MlflowException, so the request is malformed, such as deeply nested JSON.
            logger.exception("a request could not be parsed")
            raise MlflowException("The request cannot be parsed; expected a JSON table.", BAD_REQUEST) from None

    server.invocations = invocations  # type: ignore[attr-defined]
