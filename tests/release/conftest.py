"""Fixtures: an embedded store, an MLflow server, and models small enough to register in a second."""

import json
import shutil
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pandas as pd
import pytest
from mlflow_server import MlflowServer
from server_logs import assert_no_errors
from small_releases import releaser, save_model, scored_items

from clipbert.release.connection import open_store
from clipbert.release.ownership import IDENTITY
from clipbert.release.registry import Release


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of an MLflow server of this test session's own, that stays."""
    running = MlflowServer(tmp_path_factory.mktemp("server"))
    try:
        running.start()
        yield running.address
    finally:
        running.stop()
    assert_no_errors(running.log)


@pytest.fixture(scope="session")
def mortal_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlflowServer]:
    """An MLflow server that tests may kill and start again; they leave it running."""
    running = MlflowServer(tmp_path_factory.mktemp("mortal"))
    try:
        running.start()
        yield running
    finally:
        running.stop()
    assert_no_errors(running.log)


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store as `open_store` makes it; making one takes seconds, so tests start from a copy."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        root = tmp_path_factory.mktemp("template")
        open_store(root)
    return root / "mlflow" / "mlflow.db"


@pytest.fixture
def root(tmp_path: Path, empty_database: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project folder (with a space in its name) that has an embedded store and a committed identity."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "1")
    folder = tmp_path / "a project"
    (folder / "mlflow").mkdir(parents=True)
    shutil.copyfile(empty_database, folder / "mlflow" / "mlflow.db")
    # One identity for all, for several of these projects share the server of the session.
    (folder / IDENTITY).write_text(json.dumps({"id": "1" * 32, "made": "a project by me@host on 2026-11-27"}))
    return folder


@pytest.fixture(params=["embedded", "server"])
def any_root(root: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A project with each kind of store, empty."""
    if request.param == "embedded":
        yield root
        return
    monkeypatch.setenv("MLFLOW_TRACKING_URI", request.getfixturevalue("server"))
    yield root
    client = open_store(root).client
    for model in client.search_registered_models():
        client.delete_registered_model(model.name)
    for experiment in client.search_experiments():
        client.rename_experiment(experiment.experiment_id, f"over-{uuid.uuid4().hex}")


@pytest.fixture(scope="session")
def make_model(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """make_model(task, seed): a saved model with random weights, the same for the same arguments."""
    made: dict[tuple[str, int], Path] = {}

    def make(task: str = "retrieval", seed: int = 0) -> Path:
        if (task, seed) not in made:
            made[task, seed] = save_model(tmp_path_factory.mktemp("models") / task, task, seed)
        return made[task, seed]

    return make


@pytest.fixture(scope="session")
def predictions() -> Callable[..., pd.DataFrame]:
    """predictions(correct, items, offset): see `scored_items`."""
    return scored_items


@pytest.fixture
def release(any_root: Path, make_model: Callable[..., Path]) -> Callable[..., Release]:
    """release(seed, items): register the model of that seed with those predictions, in each kind of store."""
    return releaser(any_root, make_model)


@pytest.fixture
def release_embedded(root: Path, make_model: Callable[..., Path]) -> Callable[..., Release]:
    """The same in the embedded store alone."""
    return releaser(root, make_model)


@pytest.fixture
def release_in(make_model: Callable[..., Path]) -> Callable[[Path], Callable[..., Release]]:
    """release_in(root)(seed, items): the same in the store of a project of the test's choice."""
    return lambda root: releaser(root, make_model)
