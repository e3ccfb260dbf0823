"""MLflow store of the project: the embedded one under mlflow/, or the one that MLFLOW_TRACKING_URI names."""

import contextlib
import logging
import os
import re
import sqlite3
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests
from mlflow.exceptions import MlflowException
from sqlalchemy.exc import SQLAlchemyError

from clipbert.errors import ClipBertError
from clipbert.redact import redact
from clipbert.release import relocate

EMBEDDED, ARTIFACTS = relocate.DATABASE, relocate.FILES
DEFAULT_NAME = "clipbert"
CONNECT_TIMEOUT_S = 5

_timeouts_lock = threading.Lock()
_short_timeout_users = 0
_saved_environment: dict[str, str | None] = {}

for _name in ("alembic", "sqlalchemy"):
    logging.getLogger(_name).setLevel(logging.WARNING)
# They log tracebacks and retries of errors that are raised anyway.
for _name in ("mlflow.store.db.utils", "urllib3.connectionpool"):
    logging.getLogger(_name).setLevel(logging.CRITICAL)


@dataclass(frozen=True)
class Store:
    """MLflow store to which a connection was made."""

    uri: str
    registry_uri: str
    client: Any
    root: Path  # the project's folder
    embedded: bool  # whether it is the project's own store
    artifacts: Path | None  # folder for the files of new experiments; None: the server decides
    name: str = DEFAULT_NAME  # release.name

    @property
    def display_uri(self) -> str:
        """The URI without its password, for messages and files."""
        return redact(self.uri)

    @property
    def mlflow_command(self) -> str:
        """The shell command that runs MLflow on this store from the project's folder."""
        return f"MLFLOW_TRACKING_URI=sqlite:///{EMBEDDED} mlflow" if self.embedded else "mlflow"

    def model_name(self, task: str) -> str:
        """Return the name of a task's experiment and registered model."""
        return model_name(task, self.name)


def tracking_uri(root: Path) -> str:
    """Return MLFLOW_TRACKING_URI, or else the URI of the embedded store of the project at `root`."""
    return os.environ.get("MLFLOW_TRACKING_URI") or embedded_uri(root)


def portable_uri(root: Path) -> str:
    """Return the tracking URI for files that are shared: without password and without the embedded store's folder."""
    uri = tracking_uri(root)
    return f"sqlite:///{EMBEDDED}" if uri == embedded_uri(root) else redact(uri)


def model_name(task: str, name: str = DEFAULT_NAME) -> str:
    """Return the name of a task's experiment and registered model; `name` is release.name."""
    return f"{name}-{task}"


@contextlib.contextmanager
def store_errors(uri: str, failure: str) -> Iterator[None]:
    """Convert errors of MLflow, the database, the network and the file system.

    Args:
        uri: the store's URI.
        failure: what failed, such as "cannot be written".

    Raises:
        ClipBertError: naming the store, the failure, its cause and what to do.
    """
    try:
        yield
    except (MlflowException, SQLAlchemyError, sqlite3.Error, requests.RequestException, OSError, ImportError) as error:
        detail = redact(_cause(str(error).strip().split("\n", 1)[0]))[:600]
        if (problem := _account_problem(error)) is not None:
            told = f"MLflow store {redact(uri)} {failure}: {problem}\nThe server's answer: {detail}"
            raise ClipBertError(told) from error
        raise ClipBertError(f"MLflow store {redact(uri)} {failure}: {detail}\n{_advice(uri)}") from error


def is_absent(error: MlflowException) -> bool:
    """Return whether an error of a read means that the store does not have the object.

    A server with accounts (`--app-name basic-auth`) answers 403 for what does not exist, except to administrators.
    """
    return error.error_code in ("RESOURCE_DOES_NOT_EXIST", "PERMISSION_DENIED")


def _account_problem(error: Exception) -> str | None:
    """Return what is wrong with the account of this process; None if the error has another cause."""
    code = error.error_code if isinstance(error, MlflowException) else None
    if code not in ("PERMISSION_DENIED", "UNAUTHENTICATED"):
        return None
    account = os.environ.get("MLFLOW_TRACKING_USERNAME")
    named = f"the account {account} (MLFLOW_TRACKING_USERNAME)" if account else "this account"
    if code == "PERMISSION_DENIED":
        return (
            f"{named} has no permission for this.\nUse an account that has, or ask an administrator of the server for "
            "the permission EDIT on the experiment and MANAGE on the registered model."
        )
    return (
        f"{named} is unknown to the server, or its password is wrong.\nSet MLFLOW_TRACKING_USERNAME and "
        "MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN, to those of an account of the server."
    )


def _cause(message: str) -> str:
    """Return the cause of a network error without the connection pools and requests around it."""
    found = re.search(r"\(Caused by \w+\((?:([\"'])(?:.*\): )?([^\"']+)\1|(.+))\)\)$", message)
    return found[2] or found[3] if found else message


def _advice(uri: str) -> str:
    if uri.startswith("sqlite:"):
        return (
            "Make sure that the disk has free space, that the file and its folder are writable and that no other "
            "program locks the file, or set MLFLOW_TRACKING_URI to another store."
        )
    if uri.startswith(("http:", "https:")):
        return (
            "Start the server (`make ui` for a local one), correct MLFLOW_TRACKING_URI and its credentials, or "
            f"unset it to use the embedded store {EMBEDDED}."
        )
    return (
        "MLFLOW_TRACKING_URI takes http://HOST:PORT of a server or a database such as sqlite:////ABSOLUTE/PATH.db; "
        f"unset it to use the embedded store {EMBEDDED}."
    )


def embedded_uri(root: Path) -> str:
    """Return the URI of the embedded store of the project at `root`, whether it exists or not."""
    return f"sqlite:///{root.resolve() / EMBEDDED}"


@contextlib.contextmanager
def short_timeouts() -> Iterator[None]:
    """Shorten MLflow's timeouts from minutes to seconds within the block.

    Several threads may use it at once; the last one restores the timeouts.
    """
    global _short_timeout_users
    wanted = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1", "MLFLOW_HTTP_REQUEST_TIMEOUT": str(CONNECT_TIMEOUT_S)}
    with _timeouts_lock:
        if _short_timeout_users == 0:
            _saved_environment.update({name: os.environ.get(name) for name in wanted})
            os.environ.update(wanted)
        _short_timeout_users += 1
    try:
        yield
    finally:
        with _timeouts_lock:
            _short_timeout_users -= 1
            if _short_timeout_users == 0:
                _restore(_saved_environment)


def default_store(store: Store) -> contextlib.AbstractContextManager[None]:
    """Return a context in which the parts of MLflow that use the default store use this one."""
    return _environment(MLFLOW_TRACKING_URI=store.uri, MLFLOW_REGISTRY_URI=store.registry_uri)


@contextlib.contextmanager
def _environment(**wanted: str) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    try:
        yield
    finally:
        _restore(before)


def _restore(before: dict[str, str | None]) -> None:
    for name, value in before.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
