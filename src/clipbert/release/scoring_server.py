"""MLflow's scoring server, where it would answer with a stack trace or drop what a client asked for."""

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
    """Return the `params` of the request that is being answered, before MLflow removes the names it does not know.

    MLflow drops unknown names with a warning in the server's log, so a misspelled parameter would have no effect and
    no message. It has no hook before that: the request is read from the frame of `PyFuncModel.predict`, which called
    the model. Empty where the model is called without MLflow.
    """
    frame = sys._getframe()
    while frame.f_back is not None:
        frame = frame.f_back
        if frame.f_code is PyFuncModel.predict.__code__:
            params = frame.f_locals.get("params")
            return dict(params) if isinstance(params, dict) else {}
    return {}


def harden_scoring_server() -> None:
    """Make MLflow's scoring server answer malformed requests without stack traces, and with status 400.

    It sends the stack trace of a CSV or Parquet body that it cannot parse, and status 500 for a request without a
    content type or with JSON that is nested too deeply. Does nothing in other processes than a scoring server.
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
        except Exception:  # the model raises MlflowException alone: the request itself, as JSON nested too deeply
            logger.exception("a request could not be read")
            raise MlflowException("The request cannot be read; expected a JSON table.", BAD_REQUEST) from None

    server.invocations = invocations  # type: ignore[attr-defined]
