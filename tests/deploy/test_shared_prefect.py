"""Prefect on PostgreSQL, as deploy/compose.yaml runs it, behind TLS."""

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from prefect_server import wait_until
from shared_installation import PREFECT_PASSWORD, SharedInstallation, clean_environment

from flows.prefect_api import PrefectApi, PrefectApiError

FLOW = """
from prefect import flow, get_run_logger, task

@task
def double(number: int) -> int:
    get_run_logger().info("a line of the log")
    return 2 * number

@flow
def doubled(number: int = 21) -> int:
    return double(number)

if __name__ == "__main__":
    print("result", doubled())
"""


@pytest.fixture
def api(installation: SharedInstallation, monkeypatch: pytest.MonkeyPatch) -> PrefectApi:
    monkeypatch.setenv("SSL_CERT_FILE", str(installation.root_certificate))
    return PrefectApi(f"{installation.prefect}/api", f"clipbert:{PREFECT_PASSWORD}")


def test_a_flow_is_recorded_in_postgresql(installation: SharedInstallation, api: PrefectApi, tmp_path: Path) -> None:
    (tmp_path / "doubled.py").write_text(textwrap.dedent(FLOW))
    environment = clean_environment() | installation.client() | {"PREFECT_HOME": str(tmp_path / "home")}
    command = [sys.executable, "doubled.py"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
    assert done.stdout.splitlines()[-1:] == ["result 42"], done.stderr
    query = "select state_type from flow_run join flow on flow_run.flow_id = flow.id where flow.name = 'doubled'"
    assert installation.postgres.query(query, "prefect") == "COMPLETED"
    wait_until(lambda: installation.postgres.query("select count(*) from log", "prefect") != "0")


def test_the_scheduler_creates_runs(installation: SharedInstallation, api: PrefectApi) -> None:
    flow = api.call("POST", "/flows/", {"name": "scheduled"})
    schedule = {"schedule": {"interval": 3600}, "active": True}
    deployment = api.call("POST", "/deployments/", {"name": "hourly", "flow_id": flow["id"], "schedules": [schedule]})
    filters = {"deployments": {"id": {"any_": [deployment["id"]]}}}
    assert wait_until(lambda: api.call("POST", "/flow_runs/filter", filters))[0]["state"]["type"] == "SCHEDULED"
    api.call("DELETE", f"/deployments/{deployment['id']}")


def test_requests_without_the_password_are_refused(installation: SharedInstallation, api: PrefectApi) -> None:
    for auth_string in ("", "clipbert:wrong"):
        with pytest.raises(PrefectApiError) as caught:
            PrefectApi(f"{installation.prefect}/api", auth_string).call("GET", "/variables/name/any")
        assert caught.value.status == 401


def test_plain_http_leads_to_https(installation: SharedInstallation, api: PrefectApi) -> None:
    command = ["curl", "--silent", "--head", f"http://127.0.0.1:{installation.ports['http']}/"]
    answer = subprocess.run(command, capture_output=True, text=True).stdout
    assert "308 Permanent Redirect" in answer
    assert "Location: https://127.0.0.1" in answer
