"""Interruptions of a retraining (docs/how-to/retraining.md): a cancellation, a second run, the end of its programs."""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psutil
import pytest
from dvc_project import commit, init_git
from params_file import write_params
from prefect_server import PROGRAMS, Prefect, running_servers, wait_until

from flows.project_lock import WAITING

pytestmark = [pytest.mark.pipeline, pytest.mark.slow, pytest.mark.timeout(900)]

RETRAIN = "clipbert-retrain/retrain"
CHANGES = {"overrides": {"train.lr": 0.0005}, "promote": False}


@pytest.fixture
def retrainable(project: Path) -> Path:
    """A committed project with the parameters of `retrain`, whose first stage waits."""
    write_params(project)
    graph = project / "dvc.yaml"
    graph.write_text(graph.read_text().replace('params: ["train.${item}"]', 'params: ["train.lr"]'))
    ignored = project / ".gitignore"
    ignored.write_text(ignored.read_text() + "/artifacts/\n/orders/\n/pids\n")
    init_git(project)
    commit(project, "Start")
    (project / "orders/prepare").write_text("wait")
    return project


def stage_processes(project: Path) -> list[str]:
    """Wait until the stage that waits has started; return the ids of its processes, as text."""
    return wait_until(lambda: (project / "pids").read_text().split() if (project / "pids").exists() else None)


def running(pids: list[str]) -> list[str]:
    return [pid for pid in pids if Path("/proc", pid).exists()]


def test_a_cancelled_retraining_ends_its_processes_and_the_one_that_waits_does_the_work(
    prefect: Prefect, retrainable: Path
) -> None:
    before = (retrainable / "params.yaml").read_text()
    first = prefect.start(RETRAIN, retrainable, **CHANGES)
    pids = stage_processes(retrainable)
    assert "lr: 0.0005" in (retrainable / "params.yaml").read_text()
    second = prefect.start(RETRAIN, retrainable, **CHANGES)
    wait_until(lambda: prefect.state(second)["name"] == WAITING)
    (retrainable / "orders/prepare").unlink()
    prefect.call("POST", f"/flow_runs/{first}/set_state", {"state": {"type": "CANCELLING"}})
    assert prefect.wait(first)["type"] == "CANCELLED"
    assert running(pids) == []
    end = prefect.wait(second)
    assert end["type"] == "COMPLETED", end
    assert end["message"].startswith("4 of 5 stages had work")
    assert (retrainable / "params.yaml").read_text() == before
    (prepared,) = (retrainable / "artifacts").glob("prepared.txt")
    assert prepared.read_text() == "1 2 3\n"


def test_after_the_end_of_every_process_a_run_is_crashed_and_the_next_one_does_its_work(
    retrainable: Path, tmp_path: Path
) -> None:
    """As after a power failure: server, worker, flow and stage are killed at once, and only the disk is left."""
    before = (retrainable / "params.yaml").read_text()
    folder = tmp_path / "servers"
    folder.mkdir()
    with running_servers(retrainable, folder) as servers:
        lost = servers.start(RETRAIN, retrainable, **CHANGES)
        pids = stage_processes(retrainable)
        everything = [
            *psutil.Process(servers.process.pid).children(recursive=True),
            psutil.Process(servers.process.pid),
        ]
        everything += [psutil.Process(int(pid)) for pid in pids]
        for process in everything:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        servers.process.wait()
        wait_until(lambda: running(pids) == [])
    assert "lr: 0.0005" in (retrainable / "params.yaml").read_text()
    (retrainable / "orders/prepare").unlink()
    with running_servers(retrainable, folder) as servers:
        state = servers.state(lost)
        assert (state["type"], state["message"]) == ("CRASHED", "make ui was stopped during the run")
        end = servers.wait(servers.start(RETRAIN, retrainable, promote=False))
        assert end["type"] == "COMPLETED", end
        assert end["message"].startswith("4 of 5 stages had work")
    assert (retrainable / "params.yaml").read_text() == before


@contextlib.contextmanager
def scheduled(prefect: Prefect, project: Path) -> Iterator[str]:
    """Let the deployment retrain run in `project` every 60 seconds, first in 15; yield its id."""
    deployment = prefect.call("GET", f"/deployments/name/{RETRAIN}")
    path = f"/deployments/{deployment['id']}"
    prefect.call("PATCH", path, {"job_variables": {"env": {"CLIPBERT_ROOT": str(project)}}})
    first = (datetime.now(UTC) + timedelta(seconds=15)).isoformat()
    interval = {"schedule": {"interval": 60, "anchor_date": first}, "active": True, "parameters": CHANGES}
    (schedule,) = prefect.call("POST", f"{path}/schedules", [interval])
    try:
        yield str(deployment["id"])
    finally:
        prefect.call("DELETE", f"{path}/schedules/{schedule['id']}")
        prefect.call("PATCH", path, {"job_variables": deployment["job_variables"]})


def started_by_schedule(prefect: Prefect, deployment: str, state: str) -> list[dict[str, Any]]:
    """Return the runs of a deployment that its schedule started and that have a state, oldest first."""
    wanted = {"deployments": {"id": {"any_": [deployment]}}, "flow_runs": {"state": {"type": {"any_": [state]}}}}
    found = prefect.call("POST", "/flow_runs/filter", wanted | {"sort": "START_TIME_ASC"})
    return [run for run in found if run["auto_scheduled"]]


def test_the_next_scheduled_run_continues_what_a_killed_worker_left(prefect: Prefect, retrainable: Path) -> None:
    """The worker dies in a training; the stage before it is not repeated."""
    before = (retrainable / "params.yaml").read_text()
    (retrainable / "orders/prepare").unlink()
    (retrainable / "orders/train@left").write_text("wait")
    with scheduled(prefect, retrainable) as deployment:
        pids = stage_processes(retrainable)
        lost = started_by_schedule(prefect, deployment, "RUNNING")[0]["id"]
        (worker,) = prefect.programs("gpu")
        worker.kill()
        prefect.wait(lost, "CRASHED")
        assert running(pids) == []
        (retrainable / "orders/train@left").unlink()
        (resumed, *_) = wait_until(lambda: started_by_schedule(prefect, deployment, "COMPLETED"))
    assert prefect.state(resumed["id"])["message"].startswith("3 of 5 stages had work")
    assert prefect.tasks(resumed["id"])["prepare"]["state"]["name"] == "Unchanged"
    assert (retrainable / "params.yaml").read_text() == before


def retrain_in_terminal(project: Path) -> "subprocess.Popen[str]":
    """Start `python -m flows.retrain` as a terminal does, in a process group of its own."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_API")}
    environment |= {"PATH": f"{PROGRAMS}{os.pathsep}{os.environ['PATH']}", "PREFECT_HOME": str(project / ".prefect")}
    return subprocess.Popen(
        [sys.executable, "-m", "flows.retrain", "--set", "train.lr=0.0005", "--no-promote"],
        cwd=project,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def test_ctrl_c_ends_the_processes_of_a_stage_and_the_same_command_does_the_work(retrainable: Path) -> None:
    before = (retrainable / "params.yaml").read_text()
    flow = retrain_in_terminal(retrainable)
    try:
        pids = stage_processes(retrainable)
        assert "lr: 0.0005" in (retrainable / "params.yaml").read_text()
        os.killpg(flow.pid, signal.SIGINT)
        output = flow.communicate(timeout=120)[0]
    finally:
        flow.kill()
    assert flow.returncode == 130, output
    assert output.splitlines()[-1] == "Interrupted; the same command continues."
    assert "Traceback" not in output
    wait_until(lambda: running(pids) == [])
    assert (retrainable / "params.yaml").read_text() == before
    (retrainable / "orders/prepare").unlink()
    again = retrain_in_terminal(retrainable)
    output = again.communicate(timeout=600)[0]
    assert again.returncode == 0, output
    assert "4 of 5 stages had work" in output
    assert (retrainable / "params.yaml").read_text() == before
