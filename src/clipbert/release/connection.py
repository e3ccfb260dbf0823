"""Connection to the project's MLflow store and to the experiment of a task."""

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote, urlsplit

import sqlalchemy
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from clipbert import __version__
from clipbert.errors import ClipBertError
from clipbert.files.atomic import create_with_umask
from clipbert.files.locks import file_lock
from clipbert.release.orphans import clean_up_orphans
from clipbert.release.ownership import claim_experiment, ownership_tags
from clipbert.release.relocate import misplaced_paths
from clipbert.release.store import (
    ARTIFACTS,
    CONNECT_TIMEOUT_S,
    DEFAULT_NAME,
    Store,
    embedded_uri,
    short_timeouts,
    store_errors,
    tracking_uri,
)

DATABASES = ("sqlite", "postgresql", "mysql")
LOCK_TIMEOUT_S = 20
CREATION_TIMEOUT_S = 120  # for the creation of a database by another process, on a busy machine


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
    if uri == embedded_uri(root) and (problem := misplaced_paths(root)):
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
        root = root.resolve()
        artifacts = root / ARTIFACTS if local else None
        store = Store(uri, registry_uri, client, root, uri == embedded_uri(root), artifacts, name)
        clean_up_orphans(store)
    return store


def open_experiment(store: Store, task: str) -> str:
    """Return the id of a task's experiment; create it if it does not exist, and check that the store can be written.

    Raises:
        ClipBertError: the store or its files cannot be written, the experiment was deleted or belongs to another
            project, or its files are in another folder.
    """
    name = store.model_name(task)
    with store_errors(store.uri, "cannot be written"):
        experiment = store.client.get_experiment_by_name(name)
        if experiment is None:
            location = None if store.artifacts is None else str(store.artifacts)
            try:
                store.client.create_experiment(name, artifact_location=location, tags=ownership_tags(store))
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
