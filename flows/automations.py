"""Prefect automations of the project: crash detection, and notifications of failed runs and requested approvals.

`python -m flows.automations` creates or updates them on the server of PREFECT_API_URL; `make ui` does it at its start.
docs/how-to/notifications.md describes the channels.
"""

import argparse
import hashlib
import json
import os
import sys
from collections.abc import Mapping
from typing import Any

from clipbert.redact import install_redaction
from flows.channels import CHANNELS, ChannelError, find_blocks, save_blocks
from flows.prefect_api import PrefectApi, PrefectApiError

RECORD = "clipbert_automations"  # variable on the server with a digest of each automation as this project made it
HEARTBEAT_S = 30  # PREFECT_FLOWS_HEARTBEAT_FREQUENCY of workers; Prefect's minimum
SILENCE_S = 90  # three heartbeats
FLOWS = "clipbert-*"
CRASH, FAILURE, APPROVAL = "clipbert: silent run", "clipbert: failed run", "clipbert: approval"

_NAMES = "{{ flow.name }}/{{ flow_run.name }}"
_SUBJECTS = {FAILURE: f"{_NAMES}: {{{{ flow_run.state.name }}}}", APPROVAL: f"{_NAMES} waits for your decision"}
_BODY = "{{ flow_run.state.message or flow_run.state.name }}\n\n{{ flow_run|ui_url }}"
_PAYLOAD = """{
  "subject": %s,
  "flow": {{ flow.name|tojson }},
  "run": {{ flow_run.name|tojson }},
  "state": {{ flow_run.state.name|tojson }},
  "message": {{ (flow_run.state.message or "")|tojson }},
  "url": {{ flow_run|ui_url|tojson }}
}"""


def automations(blocks: Mapping[str, str]) -> list[dict[str, Any]]:
    """Return the automations as Prefect's API takes them.

    Args:
        blocks: the id of the block of each channel that is configured. Without any, nothing is notified.
    """
    found = [_crash_detection()]
    if blocks:
        found.append(_notification(FAILURE, ["FAILED", "CRASHED"], FLOWS, blocks))
        found.append(_notification(APPROVAL, ["PAUSED"], "clipbert-promote", blocks))
    return found


def _crash_detection() -> dict[str, Any]:
    """Return the automation that marks a run as crashed if its process sends no heartbeat any more.

    A worker reports processes that end. This covers a machine or a worker that is gone. Any event of a run is a sign of
    life, since final states have names of their own (Promoted, Unchanged, ...).
    """
    message = f"No sign of life for {SILENCE_S} s: the worker or its machine has ended"
    return {
        "name": CRASH,
        "description": f"Marks runs without a heartbeat for {SILENCE_S} s as crashed, which frees their GPU slots.",
        "trigger": {
            "type": "event",
            "posture": "Proactive",
            "match": {"prefect.resource.id": "prefect.flow-run.*"},
            "match_related": {"prefect.resource.role": "flow", "prefect.resource.name": FLOWS},
            "after": ["prefect.flow-run.heartbeat"],
            "expect": ["prefect.flow-run.*"],
            "for_each": ["prefect.resource.id"],
            "threshold": 1,
            "within": SILENCE_S,
        },
        "actions": [{"type": "change-flow-run-state", "state": "CRASHED", "name": "Crashed", "message": message}],
    }


def _notification(name: str, states: list[str], flow: str, blocks: Mapping[str, str]) -> dict[str, Any]:
    subject = _SUBJECTS[name]
    # A template's quotes are not those of JSON, so the subject is composed in the template.
    payload = _PAYLOAD % ("{{ (" + _expression(subject) + ")|tojson }}")
    actions: list[dict[str, Any]] = []
    for channel, block in sorted(blocks.items()):
        if CHANNELS[channel].is_webhook:
            actions.append({"type": "call-webhook", "block_document_id": block, "payload": payload})
        else:
            sent = {"subject": subject, "body": _BODY}
            actions.append({"type": "send-notification", "block_document_id": block, **sent})
    return {
        "name": name,
        "description": f"Sends a message to: {', '.join(sorted(blocks))}.",
        "trigger": {
            "type": "event",
            "posture": "Reactive",
            "match": {"prefect.resource.id": "prefect.flow-run.*", "prefect.state-type": states},
            "match_related": {"prefect.resource.role": "flow", "prefect.resource.name": flow},
            "expect": ["prefect.flow-run.*"],
            "threshold": 1,
            "within": 0,
        },
        "actions": actions,
    }


def _expression(template: str) -> str:
    """Return a template of words and `{{ ... }}` as one Jinja expression."""
    parts = template.replace("}}", "{{").split("{{")
    return " ~ ".join(json.dumps(part) if place % 2 == 0 else part.strip() for place, part in enumerate(parts) if part)


def deploy_automations(api: PrefectApi, environment: Mapping[str, str] = os.environ) -> list[str]:
    """Create the automations that the server does not have, and update those that have changed here.

    An automation that was switched off in the UI stays off, and one that was changed there stays as it is until its
    definition here changes. Deploying again changes nothing.

    Args:
        api: the server.
        environment: the variables of the channels, such as CLIPBERT_NOTIFY_WEBHOOK.

    Returns:
        A line for each automation and channel that was created or updated.

    Raises:
        ChannelError: a variable has an invalid value.
        PrefectApiError: the server rejected a request.
    """
    done = save_blocks(api, environment)
    wanted = automations(find_blocks(api))
    record = api.find(f"/variables/name/{RECORD}")
    digests: dict[str, str] = json.loads(record["value"]) if record else {}
    existing = _existing(api)
    for automation in wanted:
        name, digest = automation["name"], _digest(automation)
        found = existing.get(name)
        if found is not None and digests.get(name) == digest:
            continue
        if found is None:
            api.call("POST", "/automations/", automation)
        else:
            api.call("PUT", f"/automations/{found['id']}", automation | {"enabled": found["enabled"]})
        digests[name] = digest
        done.append(f"{'created' if found is None else 'updated'} the automation {name}")
    for name in existing.keys() - {automation["name"] for automation in wanted}:
        api.call("DELETE", f"/automations/{existing[name]['id']}")
        digests.pop(name, None)
        done.append(f"removed the automation {name}: no channel is configured")
    value = json.dumps(digests, sort_keys=True)
    if record is None:
        api.call("POST", "/variables/", {"name": RECORD, "value": value})
    elif record["value"] != value:
        api.call("PATCH", f"/variables/name/{RECORD}", {"value": value})
    return done


def _existing(api: PrefectApi) -> dict[str, Any]:
    """Return the project's automations on the server by name."""
    wanted = {"automations": {"name": {"any_": [CRASH, FAILURE, APPROVAL]}}}
    return {found["name"]: found for found in api.call("POST", "/automations/filter", wanted)}


def _digest(automation: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(automation, sort_keys=True).encode()).hexdigest()[:16]


def main() -> int:
    """Deploy the automations to the server of PREFECT_API_URL; return 2 after an error of the user."""
    parser = argparse.ArgumentParser(prog="python -m flows.automations", description=(__doc__ or "").split("\n")[0])
    parser.parse_args()
    install_redaction()
    url = os.environ.get("PREFECT_API_URL")
    if not url:
        print('PREFECT_API_URL is not set. With `make ui`: eval "$(python -m flows.ui --env)"', file=sys.stderr)
        return 2
    try:
        done = deploy_automations(PrefectApi(url, os.environ.get("PREFECT_API_AUTH_STRING", "")))
    except (ChannelError, PrefectApiError) as error:
        print(f"flows.automations: {error}", file=sys.stderr)
        return 2
    print("\n".join(done) or "Everything was up to date")
    return 0


if __name__ == "__main__":
    sys.exit(main())
