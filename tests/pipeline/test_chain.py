"""The whole chain on a small set: what is made, what is rerun, what a kill leaves."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
import yaml
from dvc_project import run, set_params, stages_run

pytestmark = [pytest.mark.pipeline, pytest.mark.timeout(600)]

RETRIEVAL = {f"{stage}@retrieval" for stage in ("train", "evaluate", "register")}
OPEN_QA = {f"{stage}@open_qa" for stage in ("train", "evaluate", "register")}


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


def test_a_second_repro_does_nothing_and_status_is_clean(finished_project: Path) -> None:
    assert stages_run(run("dvc", "repro", cwd=finished_project).stdout) == set()
    assert "up to date" in run("dvc", "status", cwd=finished_project).stdout
    assert run("git", "status", "--porcelain", cwd=finished_project).stdout == ""


def test_what_python_compiles_is_no_change_of_the_code(finished_project: Path) -> None:
    compiled = finished_project / "src/clipbert/frame_cache/__pycache__"
    compiled.mkdir()
    (compiled / "given.cpython-311.pyc").write_bytes(b"compiled")
    assert "up to date" in run("dvc", "status", cwd=finished_project).stdout


def test_dvc_shows_metrics_the_graph_and_the_summary(finished_project: Path) -> None:
    metrics = json.loads(run("dvc", "metrics", "show", "--json", cwd=finished_project).stdout)
    assert "retrieval/r1" in metrics[""]["data"]["artifacts/metrics/retrieval.json"]["data"]
    assert "train@retrieval" in run("dvc", "dag", "--dot", cwd=finished_project).stdout
    summary = run(sys.executable, "-m", "clipbert", "summary", cwd=finished_project).stdout
    expected = ("text-to-video R@1, %", "open QA accuracy, %", "clipbert-retrieval", "make ui", "validation/index.html")
    assert [words for words in expected if words not in summary] == []


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("ingest.timeout_s", 33.0, {"ingest"}),
        ("validate.max_text_chars", 1999, {"validate", "frames"}),
        ("release.min_gain", 0.01, set()),
        ("tasks.open_qa.epochs", 1, OPEN_QA),
        ("tasks.retrieval.negatives", 3, RETRIEVAL),
        ("evaluate.clips", 1, {*RETRIEVAL, *OPEN_QA}),  # stored with the model
        # The batch changes no score, so the predictions are the same and nothing is registered again.
        ("evaluate.batch_size", 128, {"evaluate@retrieval", "evaluate@open_qa"}),
        ("frames.quality", 80, {"frames", *RETRIEVAL, *OPEN_QA}),
    ],
)
def test_a_parameter_reruns_exactly_what_depends_on_it(
    project: Path, key: str, value: object, expected: set[str]
) -> None:
    set_params(project, {key: value})
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
    assert "no git repository" in done.stderr
    assert "git init" in done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["scripts"]


def test_promotion_and_rollback_through_the_command_line(own_copy: Path) -> None:
    clipbert = (sys.executable, "-m", "clipbert")
    run(*clipbert, "track", "relocate", cwd=own_copy)
    decided = run(*clipbert, "promote", "retrieval", cwd=own_copy).stdout
    decision = json.loads((own_copy / "artifacts" / "promotions" / "retrieval.json").read_text())
    assert decision["decision"] == "rejected"
    assert decision["items"] == 8
    assert decision["reason"] in decided
    refused = run(*clipbert, "rollback", "retrieval", cwd=own_copy, code=2)
    assert "has no champion" in refused.stderr
