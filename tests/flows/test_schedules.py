from pathlib import Path
from typing import Any

import pytest
from prefect_server import Prefect, wait_until

from flows.deployments import read_digests, update_deployments

pytestmark = pytest.mark.pipeline

DAILY = "/deployments/name/clipbert-pipeline/daily"


def daily(prefect: Prefect) -> dict[str, Any]:
    return dict(prefect.call("GET", DAILY))


def test_a_deployment_with_an_interval_starts_a_run_by_itself_and_it_completes(prefect: Prefect) -> None:
    path = f"/deployments/{daily(prefect)['id']}/schedules"
    interval = {"schedule": {"interval": 20}, "active": True, "parameters": {"stages": ["prepare"]}}
    (schedule,) = prefect.call("POST", path, [interval])
    wanted = {"flow_runs": {"state": {"type": {"any_": ["COMPLETED", "FAILED", "CRASHED"]}}}}
    started = {"deployments": {"name": {"any_": ["daily"]}}, **wanted}
    try:
        runs = wait_until(
            lambda: [run for run in prefect.call("POST", "/flow_runs/filter", started) if run["auto_scheduled"]]
        )
    finally:
        prefect.call("DELETE", f"{path}/{schedule['id']}")
    assert runs[0]["state"]["type"] == "COMPLETED"
    assert runs[0]["created_by"]["type"] == "SCHEDULE"
    assert (prefect.project / "artifacts/prepared.txt").read_text() == "1 2 3\n"


def test_what_was_set_in_the_ui_survives_a_restart(prefect: Prefect) -> None:
    """`make ui` calls update_deployments when it starts; here it is called again for the running server."""
    found, deployed, said = daily(prefect), [], []
    path = f"/deployments/{found['id']}"
    prefect.call("PATCH", path, {"parameters": {"parallel": 2, "retries": 5}, "paused": True})
    (added,) = prefect.call("POST", f"{path}/schedules", [{"schedule": {"cron": "5 4 * * 1"}, "active": True}])
    try:
        on = update_deployments(prefect.api, prefect.project, deployed.append, False, said.append)
        assert (on, deployed, said) == (True, [], [])
        again = daily(prefect)
        assert again["parameters"] == {"parallel": 2, "retries": 5}
        assert again["paused"]
        crons = {schedule["schedule"]["cron"]: schedule["active"] for schedule in again["schedules"]}
        assert crons == {"0 3 * * *": False, "5 4 * * 1": True}
    finally:
        prefect.call("DELETE", f"{path}/schedules/{added['id']}")
        prefect.call("PATCH", path, {"parameters": found["parameters"], "paused": False})


def test_a_change_of_the_file_replaces_that_deployment_alone_and_says_so(prefect: Prefect, project: Path) -> None:
    deployed: list[list[str]] = []
    said: list[str] = []
    before = read_digests(project)
    file = project / "prefect.yaml"
    file.write_text(file.read_text().replace("approve: true", "approve: false"))
    try:
        assert not update_deployments(prefect.api, project, deployed.append, False, said.append)
        assert deployed == [["promote"]]
        assert said == ["prefect.yaml has changed: the deployment promote was replaced, with the settings of the file"]
        after = read_digests(project)
        assert {name for name in before if before[name] != after[name]} == {"promote"}
    finally:
        update_deployments(prefect.api, prefect.project, deployed.append, False, said.append)
