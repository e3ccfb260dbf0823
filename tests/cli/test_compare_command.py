"""`clipbert compare` on small prediction files: tables of 100 columns, files, JSON, and errors."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from compared import qa_items, write_evaluation
from typer.testing import CliRunner

from clipbert.cli.main import app
from clipbert.config.schema import Params
from clipbert.errors import ClipBertError

pytestmark = pytest.mark.slow  # Git

PROJECT = Path(__file__).parents[2]


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with a committed evaluation `v1` and a better one in the workspace, without an MLflow store."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "params.yaml").write_text((PROJECT / "params.yaml").read_text())
    (tmp_path / ".dvc").mkdir()
    (tmp_path / ".dvc" / "config").write_text("")
    described = {"params": {"seed": "0", "train.lr": "0.1"}, "seconds": 75.0}
    write_evaluation(tmp_path, qa_items([1.0] * 12 + [0.0] * 48), **described)
    stages = {}
    for folder, name in (("predictions", "open_qa.parquet"), ("runs", "open_qa.json")):
        path = tmp_path / "artifacts" / folder / name
        md5 = f"{len(stages):032x}"
        cached = tmp_path / ".dvc" / "cache" / "files" / "md5" / md5[:2] / md5[2:]
        cached.parent.mkdir(parents=True, exist_ok=True)
        cached.write_bytes(path.read_bytes())
        stages[folder] = {"outs": [{"path": f"artifacts/{folder}/{name}", "md5": md5}]}
    (tmp_path / "dvc.lock").write_text(yaml.safe_dump({"stages": stages}))
    identity = ["-c", "user.name=Test", "-c", "user.email=test@example.com"]
    for command in (["init", "-q"], ["add", "dvc.lock"], ["commit", "-q", "-m", "1"], ["tag", "v1"]):
        subprocess.run(["git", *identity, *command], check=True, cwd=tmp_path)
    described["params"] = {"seed": "0", "train.lr": "0.2"}
    write_evaluation(tmp_path, qa_items([1.0] * 40 + [0.0] * 20), **described)
    return tmp_path


def run(*arguments: str) -> str:
    done = CliRunner().invoke(app, ["compare", *arguments])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code == 0, done.output
    return done.output


def test_tables_fit_100_columns_and_files_hold_the_same_numbers(root: Path) -> None:
    out = run("v1", "workspace", "--html", "page.html", "--metrics", "comparison.json")
    lines = out.splitlines()
    assert max(map(len, lines)) <= 100
    assert lines[0] == "open_qa: 2 models on the same 60 test items of 60 videos"
    assert any(line.split()[:3] == ["accuracy", "+46.7", "points"] for line in lines)
    assert "28 items won, first q012 (videos/012.mp4), q013" in out
    assert any(line.split()[:3] == ["train.lr", "0.1", "0.2"] for line in lines)
    cost = next(line for line in lines if line.startswith(" v1 ") and "min" in line)
    assert "1 min 15 s" in cost
    assert cost.count("not recorded") == 4
    assert out.count("workspace is better than v1") == 1
    metrics = json.loads((root / "comparison.json").read_text())
    assert metrics["open_qa/workspace_vs_v1/accuracy_difference"] == pytest.approx(46.6667, abs=1e-3)
    assert "workspace is better than v1" in (root / "page.html").read_text()
    shown = subprocess.run(
        [sys.executable, "-m", "dvc", "metrics", "show", "--json", "comparison.json"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert "accuracy_difference" in shown.stdout, shown.stderr


def test_json_is_all_that_is_printed(root: Path) -> None:
    values = json.loads(run("v1", "workspace", "--json"))
    assert values["comparisons"][0]["test"]["won"] == 28
    assert [model["trainings"][0]["kind"] for model in values["models"]] == ["git revision", "workspace"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["v1"], "at least two models"),
        (["v1", "v2"], "v2: no model has this name"),
        (["v1", "workspace", "--group-by", "lr"], "--group-by lr: expected seed"),
        (["v1", "workspace", "--group-by", "seed"], "has the only seed"),
        (["v1", "workspace", "--task", "nothing"], "nothing"),
        (["v1", "workspace", "--html", "no/page.html"], "--html no/page.html: the folder no does not exist"),
    ],
)
def test_wrong_arguments_are_errors_and_write_nothing(root: Path, arguments: list[str], message: str) -> None:
    before = sorted(path.name for path in root.iterdir())
    with pytest.raises(ClipBertError, match=message):
        run(*arguments, "--metrics", "comparison.json")
    assert sorted(path.name for path in root.iterdir()) == before


def test_the_release_name_of_params_is_used(root: Path) -> None:
    assert Params().release.name == "clipbert"
    with pytest.raises(ClipBertError, match=r"expected models:/NAME/VERSION.*films-retrieval"):
        run("v1", "models:/clipbert-retrieval/1", "--set", "release.name=films")
