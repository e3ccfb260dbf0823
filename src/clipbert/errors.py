"""Exceptions for errors that the user can fix."""

import re

from clipbert.redact import redact

USER_ERROR, OUR_ERROR = 2, 1  # exit codes
DETAIL_CHARS = 200
# Packages that are installed with an optional dependency group (an extra) only.
EXTRAS = {
    **dict.fromkeys(("dask", "distributed"), "cluster"),
    "faiss": "search",
    **dict.fromkeys(("great_expectations", "httpx", "ijson", "jinja2", "matplotlib", "mlflow", "prefect"), "pipeline"),
    **dict.fromkeys(("fastapi", "fastapi_offline", "prometheus_client", "uvicorn"), "serve"),
    **dict.fromkeys(("psutil", "pycocoevalcap", "scipy", "sqlalchemy", "starlette"), "pipeline"),
}


class ClipBertError(Exception):
    """Error that the user can fix: the message names the file, field or value, what was expected and what to do.

    The command line prints it without a traceback and exits with code 2; any other exception exits with code 1.
    Passwords and tokens in the message are hidden, because messages also reach logs, flow states and files.
    """

    def __init__(self, *arguments: object) -> None:
        super().__init__(*(redact(some) if isinstance(some, str) else some for some in arguments))


class ModelFolderError(ClipBertError, ValueError):
    """Model folder that is incomplete, changed since it was saved, or not a ClipBERT model."""


def first_line(error: BaseException | str) -> str:
    """Return an error message of a native library as one short line without paths, addresses and stack frames."""
    reason = getattr(error, "strerror", None)
    if reason:
        return str(reason)
    lines = [line.strip() for line in str(error).splitlines()]
    text = next((line for line in lines if line), type(error).__name__)
    text = re.sub(r"^(\[[\d:]+\]\s*|\S+\.cc:\d+:\s*)+", "", text)
    return re.sub(r" @ 0x[0-9a-f]+|\[?\S*/\S*\]?\s*", "", text)[:DETAIL_CHARS]


def missing_package(error: ModuleNotFoundError) -> str | None:
    """Return the message for a user whose environment lacks a package of an optional dependency group.

    None where the missing module belongs to no group: that is a fault of ours.
    """
    package = (error.name or "").partition(".")[0]
    extra = EXTRAS.get(package)
    if extra is None:
        return None
    return (
        f"The package {package} is not installed: `pip install 'clipbert[{extra}]'`, or `make install` in a clone of "
        "the project."
    )
