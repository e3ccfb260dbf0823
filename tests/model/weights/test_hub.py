"""Uploads to a server that speaks the hub's API: the folder comes back whole, and transformers loads it."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hub_server import Hub, hub_server
from huggingface_hub import ModelCard
from small_model import save_small_model

from clipbert.model import ClipBertForOpenQA
from clipbert.model.weights.card import model_card, with_results, write_card
from clipbert.model.weights.hub import push_folder, write_hub_folder
from clipbert.tasks import task_class

pytestmark = pytest.mark.slow
SECRET = "hf_of_the_test"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = save_small_model(tmp_path / "model", ClipBertForOpenQA)
    card = model_card(task_class("open_qa").card, "model", "ClipBertForOpenQA", {"Data": "| a |\n| --- |"})
    metrics = {"open_qa/accuracy": 51.0, "open_qa/accuracy_ci_low": 49.0, "open_qa/accuracy_ci_high": 53.0}
    write_card(made, with_results(card, "open_qa", metrics, "abc", "Measured on the test split."))
    return made


@pytest.fixture
def hub() -> Iterator[Hub]:
    with hub_server(SECRET) as server:
        yield server


def run(hub: Hub, folder: Path, *command: str, token: str = SECRET) -> subprocess.CompletedProcess[str]:
    """Run a command as on a machine of its own, with the hub's cache in `folder`."""
    environment = {**os.environ, "HF_ENDPOINT": hub.url, "HF_TOKEN": token, "HF_HUB_DISABLE_XET": "1"}
    environment |= {"HF_HOME": str(folder / "cache"), "HF_HUB_OFFLINE": "0"}
    return subprocess.run(
        [sys.executable, *command], cwd=folder, env=environment, capture_output=True, text=True, timeout=200
    )


def test_a_pushed_model_answers_elsewhere_as_here(hub: Hub, folder: Path, tmp_path: Path, tiny_video) -> None:
    pushed = run(hub, tmp_path, "-m", "clipbert", "push", "me/qa", "--model", "model", "--license", "mit", "--private")
    assert pushed.returncode == 0, pushed.stderr
    assert f"{hub.url}/me/qa/commit/" in pushed.stdout
    assert SECRET not in pushed.stdout + pushed.stderr
    assert hub.private["me/qa"]
    files = hub.repositories["me/qa"]
    assert files["model.safetensors"] == (folder / "model.safetensors").read_bytes()
    assert SECRET.encode() not in b"".join(files.values())

    video = tiny_video(tmp_path / "a.mp4", seed=1)
    ask = ("-m", "clipbert", "ask", str(video), "what color is it", "--json", "--model")
    there, here = run(hub, tmp_path, *ask, "me/qa"), run(hub, tmp_path, *ask, "model")
    assert there.returncode == here.returncode == 0, there.stderr
    assert json.loads(there.stdout)["answers"] == json.loads(here.stdout)["answers"]


def test_transformers_loads_it_with_and_without_an_import_of_clipbert(hub: Hub, folder: Path, tmp_path: Path) -> None:
    assert run(hub, tmp_path, "-m", "clipbert", "push", "me/qa", "--model", "model").returncode == 0
    program = """
from transformers import AutoModelForVisualQuestionAnswering, AutoProcessor
{first}
model = AutoModelForVisualQuestionAnswering.from_pretrained("me/qa"{trust})
processor = AutoProcessor.from_pretrained("me/qa"{trust})
print(type(model).__name__, type(processor).__name__, round(float(model.classifier[0].weight.sum()), 4))
"""
    known = run(hub, tmp_path, "-c", program.format(first="import clipbert.model", trust=""))
    assert known.returncode == 0, known.stderr
    trusted = run(hub, tmp_path, "-c", program.format(first="", trust=", trust_remote_code=True"))
    assert trusted.returncode == 0, trusted.stderr
    assert trusted.stdout == known.stdout
    assert known.stdout.startswith("ClipBertForOpenQA ClipBertProcessor")


def test_the_models_own_push_to_hub_and_that_of_the_processor(hub: Hub, folder: Path, tmp_path: Path) -> None:
    program = """
from clipbert.model import ClipBertProcessor, load
load("model").push_to_hub("me/other")
ClipBertProcessor.from_pretrained("model").push_to_hub("me/other")
"""
    done = run(hub, tmp_path, "-c", program)
    assert done.returncode == 0, done.stderr
    files = hub.repositories["me/other"]
    assert {"config.json", "model.safetensors", "processor_config.json", "tokenizer.json", "README.md"} <= files.keys()


def test_the_card_has_what_the_hubs_page_shows(folder: Path, tmp_path: Path) -> None:
    write_hub_folder(folder, tmp_path / "ready", "cc-by-4.0", "de")
    card = ModelCard((tmp_path / "ready" / "README.md").read_text())
    assert (card.data.license, card.data.language) == ("cc-by-4.0", "de")
    assert card.data.pipeline_tag == "video-text-to-text"
    (result,) = card.data.eval_results
    assert (result.metric_name, result.metric_value) == ("open_qa/accuracy", 51.0)
    assert "## Intended use and limits" in card.text
    config = json.loads((tmp_path / "ready" / "config.json").read_text())
    assert config["auto_map"]["AutoConfig"] == "modeling_clipbert.ClipBertConfig"
    assert "auto_map" not in json.loads((folder / "config.json").read_text())


@pytest.mark.parametrize(
    ("arguments", "token", "message"),
    [
        (("qa", "--model", "model"), SECRET, "qa: expected the id of a repository of the hub, OWNER/NAME"),
        (("me/qa", "--model", "model"), "hf_wrong", "me/qa: the hub did not take the model"),
        (("me/qa", "--model", "none"), SECRET, "--model none: not a folder"),
    ],
)
def test_a_push_that_cannot_be_says_why(
    hub: Hub, folder: Path, tmp_path: Path, arguments: tuple[str, ...], token: str, message: str
) -> None:
    done = run(hub, tmp_path, "-m", "clipbert", "push", *arguments, token=token)
    assert done.returncode == 2
    assert message in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr
    assert not hub.repositories.get("me/qa")


def test_a_folder_without_a_card_is_not_pushed(folder: Path) -> None:
    (folder / "README.md").unlink()
    with pytest.raises(Exception, match=r"README\.md: not found: expected a complete model folder"):
        push_folder(folder, "me/qa", "mit", "en", private=False)
