"""Automations on a real Prefect server, which notifies servers of the test's own after real runs."""

import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from notification_servers import smtp_server, webhook_server
from prefect_server import Prefect, wait_until

from flows.automations import APPROVAL, CRASH, FAILURE, deploy_automations
from flows.channels import ChannelError, find_blocks, save_blocks

pytestmark = pytest.mark.pipeline

SECRET = "planted-webhook-token"
PAUSING = """
from prefect import flow
from prefect.flow_runs import pause_flow_run

@flow(name="clipbert-promote")
def promote():
    pause_flow_run(timeout=60, poll_interval=1)

if __name__ == "__main__":
    promote()
"""


def on_server(prefect: Prefect) -> dict[str, Any]:
    """The automations on the server by name."""
    return {found["name"]: found for found in prefect.call("POST", "/automations/filter", {})}


@pytest.fixture(scope="module")
def channels(prefect: Prefect) -> Iterator[tuple[list[dict[str, Any]], list[str]]]:
    """What a webhook and a mail server receive, once both are configured."""
    with ExitStack() as stack:
        address, posted = stack.enter_context(webhook_server())
        port, mails = stack.enter_context(smtp_server())
        mail = f"mailto://127.0.0.1:{port}?mode=insecure&from=prefect@clipbert.test&to=team@clipbert.test"
        variables = {"CLIPBERT_NOTIFY_WEBHOOK": f"{address}/{SECRET}", "CLIPBERT_NOTIFY_EMAIL": mail}
        assert deploy_automations(prefect.api, variables) == [
            "created the block webhook/clipbert-webhook",
            "created the block slack-webhook/clipbert-email",
            f"created the automation {FAILURE}",
            f"created the automation {APPROVAL}",
        ]
        yield posted, mails
        # Other tests have failed runs, and nothing listens there any more.
        for block in find_blocks(prefect.api).values():
            prefect.call("DELETE", f"/block_documents/{block}")
        removed = deploy_automations(prefect.api, {})
        assert sorted(removed) == [
            f"removed the automation {name}: no channel is configured" for name in (APPROVAL, FAILURE)
        ]
        assert on_server(prefect).keys() == {CRASH}


def test_make_ui_has_created_the_crash_detection_alone(prefect: Prefect) -> None:
    assert f"Prefect: created the automation {CRASH}" in prefect.printed
    assert CRASH in on_server(prefect)


def test_deploying_again_changes_nothing_and_keeps_what_the_ui_changed(prefect: Prefect, channels: object) -> None:
    before = on_server(prefect)
    prefect.call("PATCH", f"/automations/{before[APPROVAL]['id']}", {"enabled": False})
    assert deploy_automations(prefect.api, {}) == []
    after = on_server(prefect)
    assert {name: found["id"] for name, found in after.items()} == {name: found["id"] for name, found in before.items()}
    assert not after[APPROVAL]["enabled"]
    prefect.call("PATCH", f"/automations/{before[APPROVAL]['id']}", {"enabled": True})


def test_a_failed_run_is_notified_by_webhook_and_mail(
    prefect: Prefect, project: Path, channels: tuple[list[dict[str, Any]], list[str]]
) -> None:
    posted, mails = channels
    run = prefect.start("clipbert-pipeline/daily", project, stages=["nonsense"])
    message = prefect.wait(run, "FAILED")["message"]
    (sent,) = wait_until(lambda: [one for one in posted if one["url"].endswith(run)])
    name = prefect.call("GET", f"/flow_runs/{run}")["name"]
    assert sent["path"] == f"/{SECRET}"
    assert (sent["flow"], sent["run"], sent["state"]) == ("clipbert-pipeline", name, "Failed")
    assert sent["subject"] == f"clipbert-pipeline/{name}: Failed"
    assert sent["message"] == message
    (mail,) = wait_until(lambda: [mail for mail in mails if name in mail])
    assert "team@clipbert.test" in mail
    assert f"Subject: clipbert-pipeline/{name}: Failed" in mail


def test_a_killed_run_is_notified_as_crashed(
    prefect: Prefect, project: Path, channels: tuple[list[dict[str, Any]], list[str]]
) -> None:
    (project / "orders/prepare").write_text("wait")
    run = prefect.start("clipbert-pipeline/daily", project)
    wait_until(lambda: (project / "pids").exists())
    (worker,) = prefect.programs("gpu")
    (flow_run,) = [child for child in worker.children() if "--ending" not in child.cmdline()][:1]
    flow_run.send_signal(signal.SIGKILL)
    prefect.wait(run, "CRASHED")
    (sent,) = wait_until(lambda: [one for one in channels[0] if one["url"].endswith(run)])
    assert sent["state"] == "Crashed"


def test_a_run_without_heartbeats_is_marked_as_crashed(prefect: Prefect) -> None:
    """With the trigger of the project, at a shorter interval."""
    automation = on_server(prefect)[CRASH]
    trigger = automation["trigger"] | {"within": 10}
    changed = {key: automation[key] for key in ("name", "description", "enabled", "actions")} | {"trigger": trigger}
    prefect.call("PUT", f"/automations/{automation['id']}", changed)
    flow = prefect.call("POST", "/flows/", {"name": "clipbert-silent"})["id"]
    running = {"type": "RUNNING", "name": "Running"}
    run = prefect.call("POST", "/flow_runs/", {"flow_id": flow, "name": "silent", "state": running})["id"]
    try:
        send_heartbeat(prefect, run, flow)
        state = prefect.wait(run, "CRASHED")
        assert state["message"].startswith("No sign of life for 90 s")
    finally:
        prefect.call("PUT", f"/automations/{automation['id']}", changed | {"trigger": automation["trigger"]})


def send_heartbeat(prefect: Prefect, run: str, flow: str) -> None:
    """Emit what the process of a run emits every HEARTBEAT_S."""
    related = {"prefect.resource.id": f"prefect.flow.{flow}", "prefect.resource.role": "flow"}
    event = {
        "id": str(uuid.uuid4()),
        "occurred": datetime.now(UTC).isoformat(),
        "event": "prefect.flow-run.heartbeat",
        "resource": {"prefect.resource.id": f"prefect.flow-run.{run}"},
        "related": [related | {"prefect.resource.name": "clipbert-silent"}],
    }
    prefect.call("POST", "/events", [event])


def test_a_run_that_waits_for_approval_is_notified(
    prefect: Prefect, tmp_path: Path, channels: tuple[list[dict[str, Any]], list[str]]
) -> None:
    (tmp_path / "pausing.py").write_text(PAUSING)
    process = subprocess.Popen([sys.executable, "pausing.py"], cwd=tmp_path, env=prefect.environment)
    try:
        (sent,) = wait_until(lambda: [one for one in channels[0] if one["flow"] == "clipbert-promote"])
    finally:
        process.kill()
        process.wait()
    assert sent["state"] == "Paused"
    assert sent["subject"] == f"clipbert-promote/{sent['run']} waits for your decision"


def test_the_address_of_a_webhook_is_in_no_file_of_the_server(prefect: Prefect, channels: object) -> None:
    home = Path(prefect.environment["PREFECT_HOME"])
    kept = [path for path in [*home.rglob("*"), prefect.log, *prefect.log.parent.glob("logs/*")] if path.is_file()]
    assert any(path.suffix == ".db" for path in kept)
    assert [path for path in kept if SECRET.encode() in path.read_bytes()] == []


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("WEBHOOK", "ftp://host/planted-webhook-token"),
        ("WEBHOOK", "planted-webhook-token"),
        ("SLACK", "http://hooks.slack.com/planted-webhook-token"),
        ("EMAIL", "team:planted-webhook-token@clipbert.test"),
        ("EMAIL", "mailto://["),
    ],
)
def test_an_invalid_channel_is_named_without_its_value(prefect: Prefect, name: str, value: str) -> None:
    before = on_server(prefect)
    with pytest.raises(ChannelError, match=f"^CLIPBERT_NOTIFY_{name}: expected (an|the) ") as caught:
        save_blocks(prefect.api, {f"CLIPBERT_NOTIFY_{name}": value})
    assert SECRET not in str(caught.value)
    assert on_server(prefect).keys() == before.keys()


def test_the_command_needs_a_server(tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "PREFECT_API_URL"}
    command = [sys.executable, "-m", "flows.automations"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (2, "")
    assert "PREFECT_API_URL is not set" in done.stderr
