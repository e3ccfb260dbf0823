"""`clipbert convert`: both directions from the command line, and messages about wrong options."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from forked_python import run_program

sys.path.append(str(Path(__file__).parent / "model"))
from original_checkpoint import CONFIG, checkpoint

pytestmark = pytest.mark.slow


def clipbert(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return run_program("-m", "clipbert", "convert", *arguments, cwd=folder)


def test_there_and_back(tmp_path: Path) -> None:
    (tmp_path / "base_model.json").write_text(json.dumps(CONFIG))
    torch.save(checkpoint(2), tmp_path / "old.pt")
    given = ("--model-config", "base_model.json", "--task", "retrieval")
    there = clipbert(tmp_path, "old.pt", *given, "--out", "model")
    assert there.returncode == 0, there.stderr
    assert "from old.pt" in there.stdout
    back = clipbert(tmp_path, "model", "--to-original", "--out", "back.pt")
    assert back.returncode == 0, back.stderr
    weights = torch.load(tmp_path / "back.pt", weights_only=True)
    name = "cnn.feature.backbone.stem.conv1.weight"
    assert torch.equal(weights[name], checkpoint(2)[name])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--task", "retreival"), "--task retreival: expected one of retrieval, open_qa, image_qa"),
        ((), "--task None: expected one of retrieval"),
        (("--task", "retrieval"), "--model-config: missing; expected the authors' model configuration"),
        (("--task", "backbone"), "old.pt: cannot be read"),
        (("--to-original",), "old.pt/config.json: not found"),
    ],
)
def test_a_wrong_option_is_named(tmp_path: Path, arguments: tuple[str, ...], message: str) -> None:
    done = clipbert(tmp_path, "old.pt", *arguments, "--out", "model")
    assert done.returncode == 2
    assert message in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "model").exists()
