"""Where runs and models are kept: the embedded store under mlflow/, or the one that MLFLOW_TRACKING_URI names."""

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
PROBE_S = 5
LOCKED_S = 20
CREATION_S = 120  # of a database by another process, on a busy machine

_patience = threading.Lock()
_impatient = 0
_usual_patience: dict[str, str | None] = {}

for _name in ("alembic", "sqlalchemy"):
    logging.getLogger(_name).setLevel(logging.WARNING)
# They write tracebacks and retries of what is raised all the same.
for _name in ("mlflow.store.db.utils", "urllib3.connectionpool"):
    logging.getLogger(_name).setLevel(logging.CRITICAL)


@dataclass(frozen=True)
class Store:
    """An MLflow store that answered."""

    uri: str
    registry_uri: str
    client: Any
    root: Path  # of the project
    embedded: bool  # it is the project's own
    artifacts: Path | None  # where new experiments keep their files; None: the server decides
    name: str = DEFAULT_NAME  # release.name

    @property
    def shown(self) -> str:
        """The URI without its password, for messages and files."""
        return redact(self.uri)

    @property
    def mlflow(self) -> str:
        """MLflow's command line on this store, as a user of the project's folder types it."""
        return f"MLFLOW_TRACKING_URI=sqlite:///{EMBEDDED} mlflow" if self.embedded else "mlflow"

    def model_name(self, task: str) -> str:
        """The name of a task's experiment and of its registered model."""
        return model_name(task, self.name)


def tracking_uri(root: Path) -> str:
    """MLFLOW_TRACKING_URI, or the embedded store of the project at `root`."""
    return os.environ.get("MLFLOW_TRACKING_URI") or embedded_uri(root)


def portable_uri(root: Path) -> str:
    """The tracking URI for files that may travel: no password, and no absolute path of the embedded store."""
    uri = tracking_uri(root)
    return f"sqlite:///{EMBEDDED}" if uri == embedded_uri(root) else redact(uri)


def model_name(task: str, name: str = DEFAULT_NAME) -> str:
    """The name of a task's experiment and of its registered model; `name` is release.name."""
    return f"{name}-{task}"


def open_store(root: Path, name: str = DEFAULT_NAME) -> Store:
    """Connect to the store, making the embedded one when it is not there yet.

    Args:
        name: release.name, with which experiments and registered models begin.

    Raises:
        ClipBertError: it cannot be reached within seconds, cannot be written, is not an MLflow store, or is the
            embedded one of a project that was moved since.
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
    """The id of a task's experiment, made when it is not there yet, after a proof that store and files can be written.

    Raises:
        ClipBertError: they cannot; the experiment was deleted, or is another project's; or its files belong to a folder
            of another place.
    """
    from clipbert.release.ownership import claim_experiment, ownership_tags

    name = store.model_name(task)
    with store_errors(store.uri, "cannot be written"):
        experiment = store.client.get_experiment_by_name(name)
        if experiment is None:
            where = None if store.artifacts is None else str(store.artifacts)
            try:
                experiment_id = store.client.create_experiment(
                    name, artifact_location=where, tags=ownership_tags(store)
                )
            except MlflowException as error:
                if error.error_code != "RESOURCE_ALREADY_EXISTS":
                    raise
            experiment = store.client.get_experiment_by_name(name)
        if experiment.lifecycle_stage != "active":
            raise ClipBertError(
                f"MLflow store {store.shown}: the experiment {name} was deleted. Restore it with `{store.mlflow} "
                f"experiments restore --experiment-id {experiment.experiment_id}`, or set release.name to another name."
            )
        claim_experiment(store, experiment)
        experiment_id = str(experiment.experiment_id)
        store.client.set_experiment_tag(experiment_id, "clipbert.version", __version__)
        # Without it the UI opens the experiment as one of language-model traces.
        store.client.set_experiment_tag(experiment_id, "mlflow.experimentKind", "custom_model_development")
        if store.artifacts is not None:
            _check_artifacts(store, store.artifacts, experiment.artifact_location)
    return experiment_id


@contextlib.contextmanager
def store_errors(uri: str, failure: str) -> Iterator[None]:
    """Turn a failure of the store into a message that names it and says what to do.

    Raises:
        ClipBertError: in place of what MLflow, the database, the network or the file system raised.
    """
    try:
        yield
    except (MlflowException, SQLAlchemyError, sqlite3.Error, requests.RequestException, OSError, ImportError) as error:
        detail = redact(_cause(str(error).strip().split("\n", 1)[0]))[:600]
        raise ClipBertError(f"MLflow store {redact(uri)} {failure}: {detail}\n{_advice(uri)}") from error


def _cause(message: str) -> str:
    """What the network said, without the pools and requests that it went through."""
    found = re.search(r"\(Caused by \w+\((?:([\"'])(?:.*\): )?([^\"']+)\1|(.+))\)\)$", message)
    return found[2] or found[3] if found else message


def _advice(uri: str) -> str:
    if uri.startswith("sqlite:"):
        return (
            "Make sure that its folder can be written and that no other program holds the file, or set "
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
    """The address of the embedded store of the project at `root`, there or not."""
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
    with file_lock(path.with_name(f".{path.name}.lock"), CREATION_S, on_unsupported=lambda error: None):
        yield


def _probe_database(uri: str) -> None:
    """One connection attempt: MLflow itself would retry for minutes."""
    url = sqlalchemy.make_url(uri)
    backend = url.get_backend_name()
    patience = {"timeout": LOCKED_S} if backend == "sqlite" else {"connect_timeout": PROBE_S}
    if backend == "sqlite" and url.database:
        Path(url.database).parent.mkdir(parents=True, exist_ok=True)
        if not url.database.startswith((":", "file:")):
            create_with_umask(Path(url.database))
    engine = sqlalchemy.create_engine(url, connect_args=patience, poolclass=sqlalchemy.pool.NullPool)
    with engine.connect() as connection:
        # Asks SQLite for the right to write, and gives it back.
        connection.exec_driver_sql("BEGIN IMMEDIATE" if backend == "sqlite" else "SELECT 1")
        connection.rollback()


def _check_artifacts(store: Store, artifacts: Path, location: str) -> None:
    found = Path(unquote(urlsplit(location).path) if location.startswith("file:") else location)
    if store.embedded and found != artifacts:
        raise ClipBertError(
            f"MLflow store {store.shown}: its files are under {found}, expected {artifacts}. Set MLFLOW_TRACKING_URI "
            "to the server that keeps them there."
        )
    if found.is_absolute():
        found.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=found):
            pass


@contextlib.contextmanager
def short_timeouts() -> Iterator[None]:
    """Inside, a server that does not answer within seconds has failed; MLflow's own patience is minutes.

    Several threads may be inside at once; the last one out brings the patience back.
    """
    global _impatient
    wanted = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1", "MLFLOW_HTTP_REQUEST_TIMEOUT": str(PROBE_S)}
    with _patience:
        if _impatient == 0:
            _usual_patience.update({name: os.environ.get(name) for name in wanted})
            os.environ.update(wanted)
        _impatient += 1
    try:
        yield
    finally:
        with _patience:
            _impatient -= 1
            if _impatient == 0:
                _restore(_usual_patience)


def default_store(store: Store) -> contextlib.AbstractContextManager[None]:
    """Inside, the parts of MLflow that look for a default store instead of being given one find this one."""
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
