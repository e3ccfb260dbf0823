"""Deployments of prefect.yaml on the server of `make ui`, preserving changes made in the Prefect UI."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from flows.prefect_api import PrefectApi

# Variable on the server with the digest of the prefect.yaml entry from which each deployment was created.
RECORD = "clipbert_deployments"


def read_digests(root: Path) -> dict[str, str]:
    """Return a digest of the settings of each deployment in prefect.yaml."""
    text = (root / "prefect.yaml").read_text(encoding="utf-8")
    content = yaml.safe_load(text)
    shared = {key: value for key, value in content.items() if key != "deployments"}
    return {
        entry["name"]: hashlib.sha256(json.dumps([shared, entry], sort_keys=True, default=str).encode()).hexdigest()
        for entry in content["deployments"]
    }


def update_deployments(
    api: PrefectApi, root: Path, deploy: Callable[[list[str]], None], scheduled: bool, log: Callable[[str], None]
) -> bool:
    """Deploy new and changed entries of prefect.yaml; leave all other deployments unchanged.

    Parameters, schedules and pauses that were set in the UI therefore survive a restart. A deployment with a changed
    entry in prefect.yaml takes the settings of the file, except that its schedules stay on or off.

    Args:
        api: the server.
        root: the project's folder.
        deploy: runs `prefect deploy` for deployments by name.
        scheduled: switch all schedules on. Otherwise new ones are off and existing ones are unchanged.
        log: receives a line about each deployment that is replaced.

    Returns:
        Whether any schedule is on.
    """
    digests = read_digests(root)
    record = api.find(f"/variables/name/{RECORD}")
    recorded: dict[str, str] = json.loads(record["value"]) if record else {}
    existing = _existing(api, list(digests))
    changed = [name for name in existing if recorded.get(name) != digests[name]]
    pending = [name for name in digests if name not in existing or name in changed]
    if pending:
        was_on = {name for name, found in existing.items() if any(entry["active"] for entry in found["schedules"])}
        deploy(pending)
        for name, found in _existing(api, pending).items():
            _switch_schedules(api, found, scheduled or name in was_on)
        _write_record(api, record, {**recorded, **digests})
        for name in changed:
            log(f"prefect.yaml has changed: the deployment {name} was replaced, with the settings of the file")
    deployments = _existing(api, list(digests))
    if scheduled:
        for found in deployments.values():
            _switch_schedules(api, found, True)
        deployments = _existing(api, list(digests))
    return any(entry["active"] for found in deployments.values() for entry in found["schedules"])


def _existing(api: PrefectApi, names: list[str]) -> dict[str, Any]:
    """Return the server's deployments with these names."""
    wanted = {"deployments": {"name": {"any_": names}}}
    return {found["name"]: found for found in api.call("POST", "/deployments/filter", wanted)}


def _switch_schedules(api: PrefectApi, deployment: Any, active: bool) -> None:
    for entry in deployment["schedules"]:
        if entry["active"] != active:
            path = f"/deployments/{deployment['id']}/schedules/{entry['id']}"
            api.call("PATCH", path, {"active": active})


def _write_record(api: PrefectApi, record: Any, digests: dict[str, str]) -> None:
    value = json.dumps(digests, sort_keys=True)
    if record is None:
        api.call("POST", "/variables/", {"name": RECORD, "value": value})
    else:
        api.call("PATCH", f"/variables/name/{RECORD}", {"value": value})


def mark_abandoned_runs(api: PrefectApi, pool: str, message: str) -> None:
    """Mark the unfinished runs of a worker of `pool` that has ended as crashed."""
    unfinished = {"state": {"type": {"any_": ["PENDING", "RUNNING", "CANCELLING", "PAUSED"]}}}
    filters = {"flow_runs": unfinished, "work_pools": {"name": {"any_": [pool]}}}
    for run in api.call("POST", "/flow_runs/filter", filters):
        state = {"type": "CRASHED", "name": "Crashed", "message": message}
        api.call("POST", f"/flow_runs/{run['id']}/set_state", {"state": state, "force": True})
