"""clipbert ask, caption, choose and match: answers, pictures, which model answers, and what a wrong input says."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from invoked_commands import fail, run
from PIL import Image
from small_releases import releaser, save_model, scored_items

from clipbert import pipeline
from clipbert.cli.model_choice import choose_model
from clipbert.errors import ClipBertError
from clipbert.project import Project

pytestmark = pytest.mark.slow  # decodes files in another process

QUESTION = "what color is it?"


@pytest.fixture
def root(tmp_path: Path, tiny_video: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the video a.mp4, as the current one."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)
    tiny_video(tmp_path / "a.mp4")
    return tmp_path


def run_json(*arguments: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(run(*arguments, "--json"))
    return found


def test_a_question_is_answered_as_the_pipeline_does(root: Path) -> None:
    folder = save_model(root / "artifacts" / "models" / "open_qa", "open_qa", 0)
    expected = pipeline("open_qa", folder)("a.mp4", QUESTION, top=2)
    found = run_json("ask", "a.mp4", QUESTION, "--top", "2", "--explain", "why.png")
    assert found == {
        "video": "a.mp4",
        "question": QUESTION,
        "answers": expected,
        "calibrated": False,
        "remarks": ["the confidence is not calibrated"],
        "model": {
            "name": "artifacts/models/open_qa (the last trained)",
            "folder": str(root / "artifacts" / "models" / "open_qa"),
            "task": "open_qa",
        },
        "explain": "why.png",
    }
    with Image.open("why.png") as picture:
        assert picture.format == "PNG"
    shown = run("ask", "a.mp4", QUESTION, "--model", str(folder)).splitlines()
    assert shown[0].split() == [expected[0]["answer"], f"{100 * expected[0]['score']:.1f}", "%"]
    assert shown[-1] == f"model: {folder}"
    assert run_json("ask", "a.mp4", QUESTION, "--start", "1")["start_s"] == 1


def test_options_captions_and_texts(root: Path) -> None:
    choose = save_model(root / "choose", "multiple_choice", 0)
    options = ["--options", "red", "--options", "blue"]
    found = run_json("choose", "a.mp4", QUESTION, *options, "--model", str(choose), "--explain", "choose.png")
    assert found["answers"] == pipeline(None, choose)("a.mp4", QUESTION, ["red", "blue"])
    captioning = save_model(root / "describe", "captioning", 0)
    (expected,) = pipeline(None, captioning)("a.mp4")
    found = run_json("caption", "a.mp4", "--model", str(captioning), "--explain", "caption.png")
    assert (found["caption"], found["score"]) == (expected["caption"], expected["score"])
    texts = ["a red square", "a blue circle"]
    search = save_model(root / "search", "retrieval", 0)
    found = run_json("match", "a.mp4", *texts, "--model", str(search), "--explain", "match.png")
    scores = {text: pipeline(None, search)(text, ["a.mp4"])[0]["score"] for text in texts}
    assert {row["text"]: row["score"] for row in found["texts"]} == pytest.approx(scores, abs=1e-5)
    assert found["texts"][0]["score"] >= found["texts"][1]["score"]
    pretrained = save_model(root / "pretrain", "pretrain", 0)
    assert " %" in run("match", "a.mp4", *texts, "--model", str(pretrained))
    assert all((root / f"{name}.png").is_file() for name in ("choose", "caption", "match"))


def test_wrong_inputs_are_named(root: Path) -> None:
    folder = str(save_model(root / "model", "open_qa", 0))
    (root / "bad.mp4").write_bytes(b"no video" * 99)
    assert "'gone.mp4': not found: expected a video" in fail("ask", "gone.mp4", QUESTION, "--model", folder)
    assert "bad.mp4: cannot be decoded: " in fail("ask", "bad.mp4", QUESTION, "--model", folder)
    assert "expected a text that is not empty" in fail("ask", "a.mp4", " ", "--model", folder)
    assert "start_s is 99, but the video lasts 2.0 s" in fail("ask", "a.mp4", "x", "--model", folder, "--start", "99")
    assert "--options: 1 option is given" in fail("choose", "a.mp4", "x", "--options", "red")
    assert "why.jpg: expected the name of a PNG" in fail("ask", "a.mp4", "x", "--model", folder, "--explain", "why.jpg")
    assert "the folder no does not exist" in fail("ask", "a.mp4", "x", "--model", folder, "--explain", "no/why.png")
    assert "model: is a model of open_qa: expected one of captioning" in fail("caption", "a.mp4", "--model", folder)
    assert "no model of captioning: no version is the champion" in fail("caption", "a.mp4")
    assert "clipbert train captioning" in fail("caption", "a.mp4")
    assert "--model ./none: not a folder: expected a model folder" in fail("ask", "a.mp4", "x", "--model", "./none")
    assert "models:/x: not a registered version" in fail("ask", "a.mp4", "x", "--model", "models:/x")


def test_a_hub_id_that_cannot_be_had_says_what_to_do(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    message = fail("ask", "a.mp4", "x", "--model", "nobody/no-model-of-this-name")
    assert "--model nobody/no-model-of-this-name: not a folder, and the hub did not provide it" in message


def test_no_command_imports_mlflow_for_a_local_model(root: Path) -> None:
    save_model(root / "artifacts" / "models" / "open_qa", "open_qa", 0)
    code = (
        "import sys; from typer.testing import CliRunner; from clipbert.cli.main import app\n"
        "done = CliRunner().invoke(app, ['ask', 'a.mp4', 'what color is it?'])\n"
        "print(done.output, sorted({'mlflow', 'matplotlib', 'dvc', 'prefect'} & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "(the last trained)" in done.stdout
    assert done.stdout.splitlines()[-1].endswith("[]")


def test_the_champion_is_the_default_and_versions_have_names(root: Path) -> None:
    from contextlib import ExitStack

    from clipbert.release.aliases import CHAMPION
    from clipbert.release.connection import open_store

    release = releaser(root, lambda task, seed: save_model(root / f"model-{seed}", task, seed))
    first, second = (release(seed, scored_items(30)) for seed in (0, 1))
    workspace = save_model(root / "artifacts" / "models" / "retrieval", "retrieval", 2)
    project, tasks = Project(root), ("retrieval", "pretrain")
    with ExitStack() as scratch:
        assert choose_model(project, None, tasks, scratch).folder == workspace
        open_store(root).client.set_registered_model_alias(first.name, CHAMPION, first.version)
        found = choose_model(project, None, tasks, scratch)
        assert found.name == f"models:/clipbert-retrieval/{first.version} (champion)"
        assert_same_model(found.folder, root / "model-0")
        named = choose_model(project, f"models:/{first.name}/{second.version}", tasks, scratch)
        assert_same_model(named.folder, root / "model-1")
        (root / "mlflow" / "mlflow.db").rename(root / "other.db")
        with pytest.raises(ClipBertError, match="no model is registered yet"):
            choose_model(project, f"models:/{first.name}@champion", tasks, scratch)


def assert_same_model(folder: Path, expected: Path) -> None:
    own, wanted = pipeline(None, folder).model, pipeline(None, expected).model
    pairs = zip(own.parameters(), wanted.parameters(), strict=True)
    assert all(torch.equal(one, other) for one, other in pairs)
