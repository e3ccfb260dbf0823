"""Each recipe trains for three steps on a few media in the layout of its data set, with a model small enough."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
import yaml
from dvc_project import PROJECT, commit, make_project, run
from recipe_data import LAYOUTS, make_official, make_starts
from typer.testing import CliRunner

from clipbert.cli.main import app
from clipbert.config.load import load_params
from clipbert.config.recipes import dvc_arguments, list_recipes

pytestmark = pytest.mark.pipeline

RECIPES = PROJECT / "recipes"
CHOSEN = {name: yaml.safe_load((RECIPES / f"{name}.yaml").read_text()) for name in LAYOUTS}
TASK = {name: (chosen["tasks_run"] + chosen["pretrain_run"])[0] for name, chosen in CHOSEN.items()}
# What makes hours on a GPU three steps on a CPU; everything else is the recipe's.
SHRUNK = {
    "model.preset": "tiny",
    "model.image_size": "32",
    "model.hidden_size": "16",
    "model.num_hidden_layers": "1",
    "model.num_attention_heads": "2",
    "frames.size": "32",
    "train.batch_size": "2",
    "train.num_workers": "0",
    "train.min_steps": "0",
    "evaluate.clips": "2",
    "validate.max_near_duplicates": "1.0",  # growing bars look alike
}


def clipbert(*arguments: str) -> str:
    done = CliRunner().invoke(app, list(arguments), catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return " ".join(done.output.split())


def test_every_recipe_of_a_data_set_has_a_layout() -> None:
    assert LAYOUTS.keys() | {"small", "motion"} == list_recipes(RECIPES).keys()


@pytest.mark.parametrize("name", LAYOUTS)
def test_three_steps(
    name: str, tmp_path: Path, tiny_video: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    task = TASK[name]
    shutil.copy(PROJECT / "params.yaml", tmp_path / "params.yaml")
    (tmp_path / "mlflow").mkdir()
    make_starts(tmp_path)
    arguments = make_official(tmp_path, name, tiny_video)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    words = dvc_arguments(RECIPES, name, tmp_path / "params.yaml")[1::2]
    # The few examples make one step an epoch: more batches would make a step than there are.
    shrunk = [f"{key}={value}" for key, value in (SHRUNK | {f"tasks.{task}.epochs": "3"}).items()]
    changes = [word for change in [*words, *shrunk] for word in ("--set", change.removeprefix("+"))]
    clipbert("import", *arguments)
    for verb in ("ingest", "validate", "frames"):
        clipbert(verb, *changes)
    said = clipbert("train", task, *changes)
    parts = ("model.vision from models/grid-feat-resnet50", "model.text from models/bert-base-uncased")
    starts = parts if task == "pretrain" else (f"{task} starts from artifacts/models/pretrain",)
    assert all(start in said for start in starts)
    clipbert("evaluate", task, *changes)
    curve = pd.read_csv(tmp_path / "artifacts" / "history" / task / "train.csv")
    assert curve["step"].tolist() == [3]
    assert curve["loss"].notna().all()
    settings = load_params(tmp_path / "params.yaml", changes[1::2])
    assert settings.train.lr == yaml.safe_load((RECIPES / f"{name}.yaml").read_text())["train"]["lr"]
    assert (tmp_path / "artifacts" / "metrics" / f"{task}.json").is_file()


def test_small_trains_on_the_features_of_the_packaged_parts(
    tmp_path: Path, tiny_video: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The recipe's own model, image size and parts; only the number of steps and the batch are smaller."""
    shutil.copy(PROJECT / "params.yaml", tmp_path / "params.yaml")
    (tmp_path / "mlflow").mkdir()
    arguments = make_official(tmp_path, "msrvtt_retrieval", tiny_video)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    words = [word.removeprefix("+") for word in dvc_arguments(RECIPES, "small", tmp_path / "params.yaml")[1::2]]
    fewer = ["tasks.retrieval.epochs=3", "train.min_steps=0", "train.batch_size=2", "train.num_workers=0"]
    changes = [word for change in [*words, *fewer, "validate.max_near_duplicates=1.0"] for word in ("--set", change)]
    clipbert("import", *arguments)
    for part in ("efficientnet-lite0", "all-minilm-l6-v2"):
        clipbert("pretrained", "get", part)
    for verb in ("ingest", "validate", "frames"):
        clipbert(verb, *changes)
    said = clipbert("train", "retrieval", *changes)
    assert "model.vision from models/efficientnet-lite0" in said
    assert "model.text from models/all-minilm-l6-v2" in said
    assert len(list((tmp_path / "artifacts" / "features").glob("*/index.arrow"))) == 1
    clipbert("evaluate", "retrieval", *changes)
    metrics = json.loads((tmp_path / "artifacts" / "metrics" / "retrieval.json").read_text())
    assert 0 <= metrics["retrieval/r1"] <= 100


def test_one_command_runs_a_recipe_through_dvc(tmp_path: Path, tiny_video: Callable[..., Path]) -> None:
    name, root = "msrvtt_qa", make_project(tmp_path / "project")
    shutil.copy(PROJECT / "params.yaml", root / "params.yaml")
    shutil.copytree(RECIPES, root / "recipes")
    arguments = make_official(root, name, tiny_video)
    make_starts(root)
    run("clipbert", "import", *arguments, cwd=root)
    for folder in ("annotations", "media"):
        shutil.rmtree(root / folder)
    run("dvc", "add", "data", cwd=root)
    commit(root, "Start")
    shrunk = [f"-S {key}={value}" for key, value in SHRUNK.items()]
    command = (
        f"dvc exp run -n paper $(clipbert recipe {name}) {' '.join(shrunk)} -S tasks.open_qa.epochs=3 train@open_qa"
    )
    run("bash", "-c", command, cwd=root)
    curve = pd.read_csv(root / "artifacts" / "history" / "open_qa" / "train.csv")
    assert curve["step"].tolist() == [3]
    assert "paper" in run("dvc", "exp", "list", cwd=root).stdout
    settings = load_params(root / "params.yaml")
    assert (settings.tasks_run, settings.train.lr, settings.model.score_aggregation) == (["open_qa"], 5e-5, "lse")
