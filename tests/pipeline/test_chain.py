"""The whole chain on a small set: what is made, what is rerun, what a kill leaves."""

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
import yaml
from dvc_project import clipbert, run, set_params, stages_run

pytestmark = [pytest.mark.pipeline, pytest.mark.timeout(1200)]


def test_every_stage_leaves_what_the_next_one_and_a_reader_need(finished_project: Path) -> None:
    artifacts = finished_project / "artifacts"
    quarantined = [json.loads(line) for line in (artifacts / "manifest" / "quarantine.jsonl").read_text().splitlines()]
    assert len(quarantined) == 3
    assert json.loads((artifacts / "validation" / "result.json").read_text())["success"] is True
    for task, metric in (("retrieval", "retrieval/r1"), ("open_qa", "open_qa/accuracy")):
        metrics = json.loads((artifacts / "metrics" / f"{task}.json").read_text())
        assert 0 <= metrics[metric] <= 100
        items = pd.read_parquet(artifacts / "predictions" / f"{task}.parquet")
        assert metrics[metric] == pytest.approx(100 * items["score"].mean(), abs=1e-3)
        assert {"model.safetensors", "config.json", "README.md"} <= {
            p.name for p in (artifacts / "models" / task).iterdir()
        }
        release = json.loads((artifacts / "releases" / f"{task}.json").read_text())
        assert (release["name"], str(release["version"]), release["alias"]) == (f"clipbert-{task}", "1", "candidate")
        assert "<svg" in (artifacts / "reports" / f"{task}.html").read_text()
        assert not list((artifacts / "checkpoints" / task).glob("*/"))
        training = json.loads((artifacts / "training" / f"{task}.json").read_text())
        assert training[f"{task}_cost/seconds"] > 0
        charts = {path.name for path in (artifacts / "plots" / task).iterdir()}
        assert charts == {"loss.csv", "validation.csv", "test.csv", "breakdown.csv"}
    page = (artifacts / "dashboard" / "index.html").read_text()
    assert "clipbert-retrieval in MLflow" in page
    assert "No champion yet" in page


def test_only_stages_with_changed_inputs_run(project: Path) -> None:
    # The manifest and the frames stay equal, so nothing is trained; the scores stay equal, so nothing is registered.
    changed = {"ingest.timeout_s": 33.0, "validate.max_text_chars": 1999, "evaluate.batch_size": 128}
    set_params(project, changed)
    expected = {"ingest", "validate", "frames", "evaluate@retrieval", "evaluate@open_qa", "dashboard"}
    assert stages_run(run("dvc", "repro", cwd=project).stdout) == expected


def test_an_experiment_with_another_learning_rate(project: Path) -> None:
    run(
        "dvc",
        "exp",
        "run",
        "--name",
        "faster",
        "-S",
        "train.lr=0.002",
        "evaluate@open_qa",
        cwd=project,
    )
    shown = json.loads(run("dvc", "exp", "show", "--json", cwd=project).stdout)
    rates = [
        revision["data"]["params"]["params.yaml"]["data"]["train"].get("lr")
        for entry in shown
        for experiment in entry["experiments"] or []
        for revision in experiment["revs"]
    ]
    assert rates == [0.002]
    listed = json.loads(clipbert("experiments", "--json", cwd=project).stdout)
    (faster,) = [one for one in listed if one["kind"] == "experiment"]  # under the task that it trained, not under both
    assert (faster["name"], faster["task"], faster["changes"]) == ("faster", "open_qa", {"train.lr": 0.002})
    metrics = json.loads((project / "artifacts" / "metrics" / "open_qa.json").read_text())
    assert faster["test"] == metrics["open_qa/accuracy"]
    training = json.loads((project / "artifacts" / "training" / "open_qa.json").read_text())
    assert (faster["validation"], faster["seconds"]) == (
        training["open_qa_val/accuracy"],
        training["open_qa_cost/seconds"],
    )
    with sqlite3.connect(project / "mlflow" / "mlflow.db") as database:
        names = [name for (name,) in database.execute("SELECT name FROM runs")]
    assert any(name.startswith("faster: open_qa (lr=0.002") for name in names)


def test_a_training_killed_in_the_middle_is_finished_from_its_checkpoint(project: Path, finished_project: Path) -> None:
    set_params(project, {"tasks.open_qa.epochs": 12})
    dvc = Path(sys.executable).parent / "dvc"
    environment = os.environ | {"PATH": f"{dvc.parent}{os.pathsep}{os.environ['PATH']}"}
    running = subprocess.Popen(
        [str(dvc), "repro", "train@open_qa"],
        cwd=project,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    checkpoints = project / "artifacts" / "checkpoints" / "open_qa"
    deadline = time.monotonic() + 120
    while not list(checkpoints.glob("step-*")) and time.monotonic() < deadline:
        time.sleep(0.02)
    os.killpg(running.pid, signal.SIGKILL)
    running.wait()
    reached = max(int(path.name.removeprefix("step-")) for path in checkpoints.glob("step-*"))
    assert 0 < reached < 36
    assert not (project / "artifacts" / "models" / "open_qa").exists()

    done = run("dvc", "repro", cwd=project)
    assert f"Resuming open_qa at step {reached}" in done.stdout
    assert stages_run(done.stdout) == {"train@open_qa", "evaluate@open_qa", "register@open_qa", "dashboard"}
    curve = pd.read_csv(project / "artifacts" / "history" / "open_qa" / "train.csv")
    assert curve["step"].is_monotonic_increasing
    assert curve["step"].is_unique
    assert curve["step"].max() == 36
    assert "up to date" in run("dvc", "status", cwd=project).stdout


def test_new_data_reruns_everything_and_data_dvc_follows(project: Path) -> None:
    before = yaml.safe_load((project / "data.dvc").read_text())["outs"][0]["md5"]
    captions = project / "data" / "captions.jsonl"
    lines = captions.read_text().splitlines()
    captions.write_text("\n".join(lines[:-1]) + "\n")
    done = run("dvc", "repro", "ingest", cwd=project)
    assert "ingest" in stages_run(done.stdout)
    assert yaml.safe_load((project / "data.dvc").read_text())["outs"][0]["md5"] != before


def test_the_gate_stops_everything_after_it(project: Path) -> None:
    set_params(project, {"validate.max_text_chars": 20})
    done = run("dvc", "repro", cwd=project, code=255)
    assert stages_run(done.stdout) == {"validate"}
    assert "max_text_chars" in done.stdout + done.stderr


def test_without_git_the_message_says_what_to_do(tmp_path: Path) -> None:
    script = Path(__file__).parents[2] / "scripts" / "run.sh"
    (tmp_path / "scripts").mkdir()
    (tmp_path / "scripts" / "run.sh").write_text(script.read_text())
    done = run("bash", "scripts/run.sh", cwd=tmp_path, code=2)
    assert "not a git repository" in done.stderr
    assert "git init" in done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["scripts"]


def test_promotion_and_rollback_through_the_command_line(own_copy: Path) -> None:
    clipbert("track", "relocate", cwd=own_copy)
    decided = clipbert("promote", "retrieval", cwd=own_copy).stdout
    decision = json.loads((own_copy / "artifacts" / "promotions" / "retrieval.json").read_text())
    assert decision["decision"] == "rejected"
    assert decision["items"] == 8
    assert decision["reason"] in decided
    refused = clipbert("rollback", "retrieval", cwd=own_copy, code=2)
    assert "has no champion" in refused.stderr
