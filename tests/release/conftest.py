"""An embedded store, a real MLflow server, and models small enough to register in a second."""

import json
import shutil
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from mlflow_server import MlflowServer
from server_logs import assert_no_errors

from clipbert.evaluate.conditions import conditions
from clipbert.model import (
    ClipBertConfig,
    ClipBertForCaptioning,
    ClipBertForMultipleChoice,
    ClipBertForOpenQA,
    ClipBertForPreTraining,
    ClipBertForRetrieval,
    ClipBertProcessor,
)
from clipbert.params import Params
from clipbert.release.registry import Release, register
from clipbert.release.store import open_store

TEXTS = ["a red square moves left", "a blue circle moves right", "what color is it?", "how many shapes appear?"]
SMALL = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16, "image_size": 32}
ITEMS = 60
CLASSES = {
    "retrieval": ClipBertForRetrieval,
    "open_qa": ClipBertForOpenQA,
    "multiple_choice": ClipBertForMultipleChoice,
    "image_qa": ClipBertForOpenQA,
    "captioning": ClipBertForCaptioning,
    "pretrain": ClipBertForPreTraining,
}


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
    """A project folder (with a space in its name) that has an embedded store."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "1")
    folder = tmp_path / "a project"
    (folder / "mlflow").mkdir(parents=True)
    shutil.copyfile(empty_database, folder / "mlflow" / "mlflow.db")
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


def save_model(folder: Path, task: str, seed: int) -> Path:
    """Save a model with random weights in `folder`; the same for the same task and seed."""
    tokenizer = ClipBertProcessor.train_tokenizer(TEXTS, 200, min_frequency=1)
    answer_loss = "bce" if task == "image_qa" else "ce"
    answers = ["red", "blue", "two"]
    config = ClipBertConfig.tiny(vocab_size=len(tokenizer), answers=answers, answer_loss=answer_loss, **SMALL)
    torch.manual_seed(seed)
    CLASSES[task](config).save_pretrained(folder)
    ClipBertProcessor.for_config(config, tokenizer).save_pretrained(folder)
    return folder


def scored_items(correct: int, items: int = ITEMS, offset: int = 0) -> pd.DataFrame:
    """Test items numbered from `offset`, of which a fixed random part is right; chance is the best trivial baseline."""
    score = np.zeros(items)
    score[np.random.default_rng(0).permutation(items)[:correct]] = 1.0
    names = [f"t{number:04d}" for number in range(offset, offset + items)]
    columns = {"item_id": names, "score": score, "chance": 0.1, "text": "a red square"}
    return pd.DataFrame(columns).assign(
        blank_frames_score=0.05, majority_score=0.05, constant_score=0.05, frequent_option_score=0.05
    )


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


def releaser(root: Path, make_model: Callable[..., Path]) -> Callable[..., Release]:
    """What `release` and `release_embedded` give."""

    def do(seed: int, items: pd.DataFrame, task: str = "retrieval", params: Params | None = None) -> Release:
        run_json, metrics_json = root / f"run-{seed}.json", root / f"metrics-{seed}.json"
        described = {"task": task, "run_id": f"{seed:032x}", "tags": {"clipbert.git_commit": "c0ffee"}}
        run_json.write_text(json.dumps(described))
        metrics_json.write_text(json.dumps({f"{task}/r1": 100 * float(items["score"].mean())}))
        table = root / f"predictions-{seed}.parquet"
        if "evaluation" not in items.attrs:
            items = items.assign()
            items.attrs["evaluation"] = {**conditions(task, params or Params()), "test_items": "of the test"}
        items.to_parquet(table)
        out = root / "artifacts" / "releases" / f"{task}.json"
        model_dir = make_model(task, seed)
        return register(root, task, model_dir, run_json, metrics_json, table, out, params or Params())

    return do
