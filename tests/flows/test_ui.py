import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
from prefect_server import Prefect, wait_until

from clipbert.cli.doctor import Finding, check_mlflow, check_prefect
from flows.deployments import mark_abandoned_runs
from flows.servers import free_port, require_free_port

pytestmark = pytest.mark.pipeline


def test_the_addresses_that_are_printed_are_those_of_the_servers(prefect: Prefect) -> None:
    assert prefect.link("MLflow").startswith(f"{prefect.mlflow}/sign-in#")
    assert prefect.link("Prefect").startswith(f"{prefect.url.removesuffix('/api')}/sign-in#")
    with urllib.request.urlopen(prefect.url.replace("/api", "/ui-settings"), timeout=30) as settings:
        assert prefect.url.encode() in settings.read()


def test_the_doctor_finds_both_servers(prefect: Prefect, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", prefect.mlflow)
    monkeypatch.setenv("PREFECT_API_URL", prefect.url)
    assert list(check_mlflow(tmp_path)) == [Finding("MLflow", f"server {prefect.mlflow}")]
    assert list(check_prefect(tmp_path)) == [Finding("Prefect", f"server {prefect.url}")]


def test_the_daily_schedule_sleeps_unless_asked_for(prefect: Prefect) -> None:
    daily = prefect.call("GET", "/deployments/name/clipbert-pipeline/daily")
    assert [(schedule["schedule"]["cron"], schedule["active"]) for schedule in daily["schedules"]] == [
        ("0 3 * * *", False)
    ]


def test_a_run_that_the_last_worker_left_unfinished_is_marked_as_crashed(prefect: Prefect) -> None:
    daily = prefect.call("GET", "/deployments/name/clipbert-pipeline/daily")
    later = {"type": "SCHEDULED", "state_details": {"scheduled_time": "2999-01-01T00:00:00Z"}}
    run = prefect.call("POST", f"/deployments/{daily['id']}/create_flow_run", {"state": later})["id"]
    mark_abandoned_runs(prefect.api, "gpu", "make ui was stopped while it ran")
    assert prefect.state(run)["type"] == "SCHEDULED"
    prefect.call("POST", f"/flow_runs/{run}/set_state", {"state": {"type": "RUNNING"}, "force": True})
    mark_abandoned_runs(prefect.api, "gpu", "make ui was stopped while it ran")
    assert prefect.state(run)["message"] == "make ui was stopped while it ran"


def test_a_taken_port_is_named_with_the_way_to_choose_another(project: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        command = [sys.executable, "-m", "flows.ui", "--mlflow-port", str(port)]
        done = subprocess.run(command, cwd=project, capture_output=True, text=True)
    assert done.returncode == 2
    assert f"MLflow: port {port} of 127.0.0.1 cannot be used (Address already in use)" in done.stderr
    assert done.stderr.endswith(f"make ui CLIPBERT_MLFLOW_PORT={port + 1}\n")


def test_a_server_that_does_not_start_is_shown_with_its_log_and_nothing_stays(project: Path, prefect: Prefect) -> None:
    port = free_port()
    done = subprocess.run(
        [sys.executable, "-m", "flows.ui", "--mlflow-port", str(port)],
        cwd=project,
        env=prefect.environment | {"MLFLOW_TRACKING_URI": "sqlite:////proc/absent/mlflow.db"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert "make ui: MLflow ended with exit code" in done.stderr
    assert "No such file or directory: '/proc/absent'" in done.stderr
    require_free_port(port, "MLflow", "")


def test_a_killed_worker_is_restarted_with_a_message_and_the_servers_stay(prefect: Prefect, project: Path) -> None:
    servers = {process.pid for process in prefect.programs("flows.prefect_app") + prefect.programs("mlflow")}
    (project / "orders/prepare").write_text("wait")
    lost = prefect.start("clipbert-pipeline/daily", project)
    wait_until(lambda: (project / "pids").exists())
    (worker,) = prefect.programs("gpu")
    worker.kill()
    message = "The worker of the pool gpu ended with exit code 137; restarting it now. Log: "
    wait_until(lambda: message in prefect.printed)
    prefect.wait(lost, "CRASHED")
    assert not [pid for pid in (project / "pids").read_text().split() if Path("/proc", pid).exists()]
    (project / "orders/prepare").unlink()
    run = prefect.start("clipbert-pipeline/daily", project)
    assert prefect.wait(run)["type"] == "COMPLETED"
    assert servers == {process.pid for process in prefect.programs("flows.prefect_app") + prefect.programs("mlflow")}


def test_another_terminal_gets_the_settings_of_this_project(prefect: Prefect) -> None:
    command = [sys.executable, "-m", "flows.ui", "--env"]
    done = subprocess.run(command, cwd=prefect.project, env=prefect.environment, capture_output=True, text=True)
    assert f'export PREFECT_API_URL="{prefect.url}"' in done.stdout
    assert f'export PREFECT_API_AUTH_STRING="clipbert:{prefect.password}"' in done.stdout
    assert "MLFLOW" not in done.stdout
    assert prefect.password not in prefect.printed
