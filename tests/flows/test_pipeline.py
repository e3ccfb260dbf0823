import json
import subprocess
import sys
from pathlib import Path

import pytest
from prefect_server import Prefect, wait_until

DAILY = "clipbert-pipeline/daily"
STAGES = {"data.dvc", "prepare", "train@left", "train@right", "evaluate@left"}

pytestmark = pytest.mark.pipeline


def states(prefect: Prefect, run: str) -> dict[str, str]:
    return {name: task["state"]["name"] for name, task in prefect.tasks(run).items()}


def test_the_worker_says_where_the_project_is_not_whoever_deploys(prefect: Prefect) -> None:
    for deployment in prefect.call("POST", "/deployments/filter", {}):
        assert deployment["pull_steps"]
        assert "/project" not in str(deployment)


def test_the_deployment_runs_every_stage_and_a_second_time_none(prefect: Prefect, project: Path) -> None:
    first = prefect.start(DAILY, project)
    assert prefect.wait(first)["type"] == "COMPLETED"
    assert states(prefect, first) == dict.fromkeys(STAGES - {"data.dvc"}, "Completed") | {"data.dvc": "Unchanged"}
    tags = {name: set(task["tags"]) for name, task in prefect.tasks(first).items()}
    assert tags["train@left"] == {"gpu"}
    assert tags["prepare"] == set()
    wait_until(lambda: "evaluate@left reads artifacts/models/left.txt" in prefect.logs(first), 10)

    found = prefect.artifacts(first)
    metrics = {(row["task"], row["metric"]): (row["value"], row["before"]) for row in table(found, "metrics")}
    assert metrics["left", "left/r1"] == (42.0, None)
    assert metrics["left", "left/medr"] == (3, None)
    assert {row["stage"]: row["outcome"] for row in table(found, "stages")}["prepare"] == "ran"
    assert f"{prefect.mlflow}/#/runs/run-left" in found["clipbert-run-left"]

    second = prefect.start(DAILY, project, stages=["train@right"])
    assert prefect.wait(second)["message"] == "Everything was up to date"
    assert states(prefect, second) == dict.fromkeys(["data.dvc", "prepare", "train@right"], "Unchanged")
    assert {row["outcome"] for row in table(prefect.artifacts(second), "stages")} == {"unchanged"}


def test_a_secret_that_a_stage_prints_is_nowhere_in_prefect(prefect: Prefect, project: Path) -> None:
    address = "postgresql://ada:planted-secret@db.example/clips?sslmode=require&password=planted-too"
    (project / "orders/prepare").write_text(f"say {address}")
    run = prefect.start(DAILY, project, stages=["prepare"])
    end = prefect.wait(run)
    assert end["type"] == "FAILED"
    hidden = "postgresql://***@db.example/clips?sslmode=require&password=***"
    assert f"cannot read {hidden}" in end["message"]
    wait_until(lambda: f"reading {hidden}" in prefect.logs(run), 30)
    stored = prefect.everything(run)
    assert "planted" not in stored
    assert stored.count(hidden) >= 4  # both lines in the log, the states of the task and of the run
    home = Path(prefect.environment["PREFECT_HOME"])
    assert not [file for file in home.glob("storage/*") if b"planted" in file.read_bytes()]


def test_a_failure_holds_back_what_needs_it_and_nothing_else(prefect: Prefect, project: Path) -> None:
    (project / "orders/train@left").write_text("exit 2")
    run = prefect.start(DAILY, project)
    end = prefect.wait(run)
    assert end["type"] == "FAILED"
    assert end["message"].startswith("train@left failed. Not run, because they depend on it: evaluate@left.")
    assert "expected red, blue or green" in end["message"]
    found = states(prefect, run)
    assert found["train@left"] == "Failed"
    assert found["train@right"] == "Completed"
    assert "evaluate@left" not in found
    assert prefect.tasks(run)["train@left"]["run_count"] == 1, "a user's error is not tried again"
    wait_until(lambda: "the color is wrong; expected red, blue or green" in prefect.logs(run), 10)
    assert not [line for line in prefect.logs(run) if "Traceback" in line]


def test_a_cancelled_run_leaves_no_process_behind(prefect: Prefect, project: Path) -> None:
    (project / "orders/prepare").write_text("wait")
    run = prefect.start(DAILY, project)
    pids = wait_until(lambda: (project / "pids").read_text().split() if (project / "pids").exists() else None)
    prefect.call("POST", f"/flow_runs/{run}/set_state", {"state": {"type": "CANCELLING"}})
    wait_until(lambda: not [pid for pid in pids if Path("/proc", pid).exists()], 20)
    assert prefect.wait(run)["type"] == "CANCELLED"
    assert prefect.tasks(run)["prepare"]["state"]["message"] == "prepare: stopped with the flow."
    assert not (project / "artifacts/prepared.txt").exists()


def test_the_command_line_runs_what_is_asked_tries_again_and_sums_up(prefect: Prefect, project: Path) -> None:
    (project / "orders/train@left").write_text("exit-once")
    done = run_flow(prefect, project, "train", "--retries", "1", "--parallel", "2", "--retry-delay", "0")
    assert done.returncode == 0, done.stderr
    summary = [line.split(maxsplit=1) for line in done.stdout.splitlines()]
    expected = [["data.dvc", "unchanged, skipped"], ["prepare", "ran"], ["train@left", "ran"], ["train@right", "ran"]]
    assert sorted(summary) == expected
    assert not (project / "artifacts/metrics").exists()


def test_the_command_line_says_what_is_wrong_and_exits_with_1(prefect: Prefect, project: Path) -> None:
    done = run_flow(prefect, project, "trian@left")
    assert done.returncode == 1
    assert "trian@left: dvc.yaml has no such stage. Did you mean train@left?" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


def run_flow(prefect: Prefect, project: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "flows.pipeline", *arguments]
    return subprocess.run(command, cwd=project, env=prefect.environment, capture_output=True, text=True)


def table(artifacts: dict[str, str], key: str) -> list[dict[str, object]]:
    return json.loads(artifacts[f"clipbert-{key}"])
