"""Recipes: each is valid, reaches params.yaml unchanged through DVC, and sets the same parameters as the others."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from dvc.cli import parse_args
from dvc.utils.cli_parse import to_path_overrides
from dvc.utils.hydra import apply_overrides, get_hydra_sweeps
from typer.testing import CliRunner

from clipbert.cli.main import app
from clipbert.config.load import load_params
from clipbert.config.recipes import dvc_arguments, list_recipes
from clipbert.config.yaml_io import leaves, parse_yaml
from clipbert.errors import ClipBertError
from scripts.apply_recipe import main

PROJECT = Path(__file__).parents[2]
FOLDER, PARAMS = PROJECT / "recipes", PROJECT / "params.yaml"
PAPER = {
    "msrvtt_retrieval": "retrieval",
    "didemo_retrieval": "retrieval",
    "activitynet_retrieval": "retrieval",
    "msrvtt_mc": "retrieval",
    "msrvtt_qa": "open_qa",
    "tgif_qa_action": "multiple_choice",
    "tgif_qa_transition": "multiple_choice",
    "tgif_qa_frameqa": "open_qa",
    "vqa2": "image_qa",
    "coco_vg_pretrain": "pretrain",
}


RECIPES = PAPER | {"small": "retrieval", "motion": "open_qa"}
MULTIPLIERS = "train.lr_multipliers"


def overlay(name: str) -> dict[str, Any]:
    found = dict(leaves(parse_yaml((FOLDER / f"{name}.yaml").read_text())))
    multipliers = {key: found.pop(key) for key in list(found) if key.startswith(f"{MULTIPLIERS}.")}
    if multipliers:  # a mapping is one parameter
        found[MULTIPLIERS] = {key.removeprefix(f"{MULTIPLIERS}."): value for key, value in multipliers.items()}
    return found


def through_dvc(words: list[str], file: Path) -> None:
    """Apply the arguments as `dvc exp run` does, with DVC's own functions."""
    chosen = to_path_overrides(parse_args(["exp", "run", "-n", "name", *words]).set_param)
    assert list(chosen) == ["params.yaml"]
    assert len(get_hydra_sweeps(chosen)) == 1
    apply_overrides(file, chosen["params.yaml"])


def test_there_is_a_recipe_for_every_run_of_the_paper_and_one_for_own_videos() -> None:
    assert list_recipes(FOLDER).keys() == RECIPES.keys()
    assert all(list_recipes(FOLDER).values())
    assert {name: overlay(name)["tasks_run"] + overlay(name)["pretrain_run"] for name in PAPER} == {
        name: [task] for name, task in PAPER.items()
    }


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_reaches_the_parameters_unchanged_through_dvc(name: str, tmp_path: Path) -> None:
    words = dvc_arguments(FOLDER, name, PARAMS)
    assert not any(set(word) & set(" '\"\n*?") for word in words)
    file = tmp_path / "params.yaml"
    shutil.copy(PARAMS, file)
    through_dvc(words, file)
    expected = load_params(PARAMS).flat() | overlay(name)
    assert load_params(file).flat() == expected
    # and again over a file that holds all of it already
    again = dvc_arguments(FOLDER, name, file)
    assert not any(word.startswith("+") for word in again)
    through_dvc(again, file)
    assert load_params(file).flat() == expected


def test_lists_nulls_numbers_and_texts_reach_dvc_as_they_are(tmp_path: Path) -> None:
    given = {
        "tasks_run": ["open_qa", "retrieval"],
        "train": {"lr": 1e-5, "vision_lr": None, "num_workers": 3, "max_grad_norm": 2.0},
        "frames": {"media_url": "s3://bucket/a-b_c.d", "cache_url": None},
    }
    (tmp_path / "mine.yaml").write_text(f"# Mine\n{json.dumps(given)}")
    file = tmp_path / "project" / "params.yaml"
    file.parent.mkdir()
    shutil.copy(PARAMS, file)
    through_dvc(dvc_arguments(tmp_path, "mine", file), file)
    reached = load_params(file).flat()
    assert {key: reached[key] for key, _ in leaves(given)} == dict(leaves(given))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("train: {lr: 7}", r"bad\.yaml: train\.lr=7: train\.lr = 7: expected less than"),
        ("train: {lrr: 0.1}", "train.lrr: unknown parameter; did you mean train.lr"),
        ("frames: {media_url: 's3://a b'}", "frames.media_url = 's3://a b' cannot be passed to `dvc exp run -S`"),
        ("train: [", "bad.yaml: cannot be read"),
        ("- 3", "bad.yaml: expected sections such as `train:`, found list"),
    ],
)
def test_a_wrong_recipe_names_itself(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "bad.yaml").write_text(text)
    with pytest.raises(ClipBertError, match=said):
        dvc_arguments(tmp_path, "bad", PARAMS)


def test_the_verb_lists_and_prints(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(PROJECT)
    listed = CliRunner().invoke(app, ["recipe"]).output
    assert [line.split()[0] for line in listed.splitlines()] == sorted(RECIPES)
    printed = CliRunner().invoke(app, ["recipe", "msrvtt_retrieval"]).output
    assert printed == " ".join(dvc_arguments(FOLDER, "msrvtt_retrieval", PARAMS)) + "\n"
    with pytest.raises(ClipBertError, match=r"msrvtt: no such recipe in .*expected one of activitynet_retrieval, "):
        dvc_arguments(FOLDER, "msrvtt", PARAMS)
    with pytest.raises(ClipBertError, match="no recipes here"):
        list_recipes(tmp_path)


def test_recipes_change_the_same_parameters_so_that_one_can_follow_another() -> None:
    changed = {name: {key for key in overlay(name) if not key.startswith("tasks.")} for name in PAPER}
    assert {name: keys ^ changed["msrvtt_retrieval"] for name, keys in changed.items()} == {
        name: set() for name in PAPER
    }


def test_the_batches_of_a_step_are_those_of_the_paper() -> None:
    steps = {
        name: overlay(name)["train.batch_size"] * overlay(name)["train.gradient_accumulation_steps"] for name in PAPER
    }  # type: ignore[operator]
    expected = dict.fromkeys(PAPER, 64) | {"didemo_retrieval": 128, "activitynet_retrieval": 128}
    assert steps == expected | {"vqa2": 128, "coco_vg_pretrain": 512}


def test_make_run_writes_a_recipe_into_the_parameters(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(PARAMS, tmp_path)
    shutil.copytree(FOLDER, tmp_path / "recipes")
    monkeypatch.chdir(tmp_path)
    assert main("small") == 0
    assert re.search(r"recipe small: [1-9]\d* parameters of params\.yaml changed", capsys.readouterr().out)
    assert load_params(tmp_path / "params.yaml").flat() == load_params(PARAMS).flat() | overlay("small")
    text = (tmp_path / "params.yaml").read_text()
    changed = set(text.splitlines()) - set(PARAMS.read_text().splitlines())
    # other lines, comments included, stay as they are, and values look as in the recipe
    assert {"tasks_run: [retrieval]", "  lr: 0.00005", "  size: 224", "    contrast: 10"} <= changed
    names = {name.rpartition(".")[2] for name in overlay("small")} | {"contrast", "lr_multipliers"}
    assert {line.partition(":")[0].strip() for line in changed} <= names
    assert main("small") == 0
    assert "recipe small: 0 parameters" in capsys.readouterr().out
    assert (tmp_path / "params.yaml").read_text() == text
    assert main("large") == 2
    assert "large: no such recipe" in capsys.readouterr().err
    assert (tmp_path / "params.yaml").read_text() == text
