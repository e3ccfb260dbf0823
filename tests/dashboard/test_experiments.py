"""The table of experiments, with real experiments of DVC."""

import json
from pathlib import Path

import pytest
from dvc_project import run
from typer.testing import CliRunner

from clipbert.cli.main import app
from clipbert.dashboard.experiments import listed, read_experiments
from clipbert.errors import ClipBertError

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]


def test_changes_metrics_and_cost_of_each_experiment(experiments_project: Path) -> None:
    found = {one.name: one for one in read_experiments(experiments_project, ["retrieval", "open_qa"])}
    assert {one.task for one in found.values()} == {"retrieval"}
    assert found["slower"].changes == {"train.lr": 0.0005}
    assert found["faster"].changes == {"train.lr": 0.003, "tasks.retrieval.negatives": 4}
    slower = found["slower"]
    assert (slower.metric, slower.test, slower.low, slower.high) == ("R@1", 50.5, 45.5, 55.5)
    assert (slower.validation_metric, slower.validation) == ("mrr", 89.5)
    assert (slower.seconds, slower.tflop, slower.joules) == (0.05, 2.5, None)
    assert found["main"].kind == "commit"
    assert found["main"].changes == {}
    assert "workspace" in found


def test_a_failed_experiment_does_not_borrow_the_metrics_of_its_commit(experiments_project: Path) -> None:
    """DVC shows those of the commit, or what a killed evaluation left."""
    done = run("dvc", "exp", "show", "--json", cwd=experiments_project)
    shown = [entry for entry in json.loads(done.stdout) if entry["experiments"]]
    shown[0]["experiments"][0]["executor"] = {"state": "failed"}
    name = shown[0]["experiments"][0]["name"]
    assert name not in {one.name for one in listed(shown, ["retrieval"]) if one.test is not None}


def test_a_training_with_the_metrics_of_its_commit_is_listed(experiments_project: Path) -> None:
    """Two short trainings can have the same metrics and take the same tenth of a second; their models differ."""
    done = run("dvc", "exp", "show", "--json", cwd=experiments_project)
    shown = [entry for entry in json.loads(done.stdout) if entry["experiments"]]
    (revision,) = shown[0]["experiments"][0]["revs"]
    name = shown[0]["experiments"][0]["name"]
    revision["data"]["metrics"] = shown[0]["data"]["metrics"]

    def names() -> set[str]:
        return {one.name for one in listed(shown, ["retrieval"]) if one.kind == "experiment" and one.test is not None}

    assert name not in names()
    revision["data"]["outs"] |= {"artifacts/models/retrieval": {"hash": "another"}}
    assert name in names()


def test_the_command_sorts_by_validation_unless_told_otherwise(
    experiments_project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(experiments_project)
    runner = CliRunner()

    def names(*arguments: str) -> list[str]:
        done = runner.invoke(app, ["experiments", "--json", *arguments])
        assert done.exit_code == 0, done.output
        return [one["name"] for one in json.loads(done.stdout) if one["kind"] == "experiment" and one["test"]]

    assert names() == ["slower", "faster"]
    assert names("--sort", "test") == ["faster", "slower"]
    assert names("--sort", "cost", "--task", "retrieval") == ["slower", "faster"]
    done = runner.invoke(app, ["experiments"])
    assert "45.5 to 55.5" in done.stdout
    assert "lr=0.003, negatives=4" in done.stdout.replace("\n", " ") or "negatives=4" in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 120
    empty = runner.invoke(app, ["experiments", "--task", "open_qa"])
    assert "No experiment of open_qa has been evaluated yet" in empty.stdout
    assert runner.invoke(app, ["experiments", "--sort", "size"]).exit_code != 0


def test_a_folder_without_dvc_says_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(ClipBertError, match="DVC cannot list the experiments"):
        read_experiments(tmp_path, ["retrieval"])
