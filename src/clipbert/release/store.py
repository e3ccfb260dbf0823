"""MLflow store of the project: the embedded one under mlflow/, or the one that MLFLOW_TRACKING_URI names."""

import contextlib
import logging
import os
import re
import sqlite3
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import requests
import sqlalchemy
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from sqlalchemy.exc import SQLAlchemyError

from clipbert import __version__
from clipbert.errors import ClipBertError
from clipbert.files.atomic import create_with_umask
from clipbert.files.locks import file_lock
from clipbert.redact import redact
from clipbert.release import relocate

EMBEDDED, ARTIFACTS = relocate.DATABASE, relocate.FILES
DATABASES = ("sqlite", "postgresql", "mysql")
DEFAULT_NAME = "clipbert"
CONNECT_TIMEOUT_S = 5
LOCK_TIMEOUT_S = 20
CREATION_TIMEOUT_S = 120  # for the creation of a database by another process, on a busy machine

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


def open_store(root: Path, name: str = DEFAULT_NAME) -> Store:
    """Connect to the store; create the embedded one if it does not exist.

    Args:
        root: the project's folder.
        name: release.name, the prefix of experiments and registered models.

    Raises:
        ClipBertError: the store does not answer within seconds, cannot be written, is not an MLflow store, or is the
            embedded store of a project that was moved.
    """
    uri = tracking_uri(root)
    if uri == embedded_uri(root) and (problem := relocate.misplaced_paths(root)):
        raise ClipBertError(problem)
    with store_errors(uri, "cannot be used"):
        local = uri.split(":", 1)[0].split("+", 1)[0] in DATABASES
        registry_uri = os.environ.get("MLFLOW_REGISTRY_URI") or uri
        with _creation_lock(uri):
            if local:
                _probe_database(uri)
            client = MlflowClient(tracking_uri=uri, registry_uri=registry_uri)
            with short_timeouts():
                client.search_experiments(max_results=1)
        from clipbert.release.orphans import clean_up_orphans

        root = root.resolve()
        store = _store(uri, registry_uri, client, root, local, name)
        clean_up_orphans(store)
    return store


def _store(uri: str, registry_uri: str, client: Any, root: Path, local: bool, name: str) -> Store:
    return Store(uri, registry_uri, client, root, uri == embedded_uri(root), root / ARTIFACTS if local else None, name)


def open_experiment(store: Store, task: str) -> str:
    """Return the id of a task's experiment; create it if it does not exist, and check that the store can be written.

    Raises:
        ClipBertError: the store or its files cannot be written, the experiment was deleted or belongs to another
            project, or its files are in another folder.
    """
    from clipbert.release.ownership import claim_experiment, ownership_tags

    name = store.model_name(task)
    with store_errors(store.uri, "cannot be written"):
        experiment = store.client.get_experiment_by_name(name)
        if experiment is None:
            location = None if store.artifacts is None else str(store.artifacts)
            try:
                experiment_id = store.client.create_experiment(
                    name, artifact_location=location, tags=ownership_tags(store)
                )
            except MlflowException as error:
                if error.error_code != "RESOURCE_ALREADY_EXISTS":
                    raise
            experiment = store.client.get_experiment_by_name(name)
        if experiment.lifecycle_stage != "active":
            raise ClipBertError(
                f"MLflow store {store.display_uri}: the experiment {name} was deleted. Restore it with "
                f"`{store.mlflow_command} experiments restore --experiment-id {experiment.experiment_id}`, or set "
                "release.name to another name."
            )
        claim_experiment(store, experiment)
        experiment_id = str(experiment.experiment_id)
        store.client.set_experiment_tag(experiment_id, "clipbert.version", __version__)
        # Without this tag the UI opens the experiment's traces instead of its runs.
        store.client.set_experiment_tag(experiment_id, "mlflow.experimentKind", "custom_model_development")
        if store.artifacts is not None:
            _check_artifacts(store, store.artifacts, experiment.artifact_location)
    return experiment_id


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
        raise ClipBertError(f"MLflow store {redact(uri)} {failure}: {detail}\n{_advice(uri)}") from error


def _cause(message: str) -> str:
    """Return the cause of a network error without the connection pools and requests around it."""
    found = re.search(r"\(Caused by \w+\((?:([\"'])(?:.*\): )?([^\"']+)\1|(.+))\)\)$", message)
    return found[2] or found[3] if found else message


def _advice(uri: str) -> str:
    if uri.startswith("sqlite:"):
        return (
            "Make sure that its folder is writable and that no other program locks the file, or set "
            "MLFLOW_TRACKING_URI to another store."
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
def _creation_lock(uri: str) -> Iterator[None]:
    """Let one process at a time open a database file: two that create its tables at once break each other."""
    database = sqlalchemy.make_url(uri).database if uri.startswith("sqlite") else None
    if not database or database.startswith((":", "file:")):
        yield
        return
    path = Path(database)
    path.parent.mkdir(parents=True, exist_ok=True)
    with file_lock(path.with_name(f".{path.name}.lock"), CREATION_TIMEOUT_S, on_unsupported=lambda error: None):
        yield


def _probe_database(uri: str) -> None:
    """Make one connection attempt; MLflow itself would retry for minutes."""
    url = sqlalchemy.make_url(uri)
    backend = url.get_backend_name()
    timeout = {"timeout": LOCK_TIMEOUT_S} if backend == "sqlite" else {"connect_timeout": CONNECT_TIMEOUT_S}
    if backend == "sqlite" and url.database:
        Path(url.database).parent.mkdir(parents=True, exist_ok=True)
        if not url.database.startswith((":", "file:")):
            create_with_umask(Path(url.database))
    engine = sqlalchemy.create_engine(url, connect_args=timeout, poolclass=sqlalchemy.pool.NullPool)
    with engine.connect() as connection:
        # Take SQLite's write lock and release it.
        connection.exec_driver_sql("BEGIN IMMEDIATE" if backend == "sqlite" else "SELECT 1")
        connection.rollback()


def _check_artifacts(store: Store, artifacts: Path, location: str) -> None:
    found = Path(unquote(urlsplit(location).path) if location.startswith("file:") else location)
    if store.embedded and found != artifacts:
        raise ClipBertError(
            f"MLflow store {store.display_uri}: its files are under {found}, expected {artifacts}. Set "
            "MLFLOW_TRACKING_URI to the server that serves them."
        )
    if found.is_absolute():
        found.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=found):
            pass


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
