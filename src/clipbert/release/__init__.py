"""Runs, registered models and promotion: the only package that imports MLflow."""

import os
from importlib.util import find_spec

# MLflow reads these when it is imported, so they are set before any module of this package imports it.
for _name, _value in {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "4",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "GIT_PYTHON_REFRESH": "quiet",
}.items():
    os.environ.setdefault(_name, _value)

# Without the package, `import mlflow` would find the project's folder of that name.
if (_spec := find_spec("mlflow")) is None or _spec.origin is None:
    raise ModuleNotFoundError("No module named 'mlflow'", name="mlflow")
