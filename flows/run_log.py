"""Record of the pipeline's runs in artifacts/flow_runs.jsonl, and the page that shows it."""

import json
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

from clipbert.redact import redact
from flows.supervisor import environment

FLOW_RUNS = Path("artifacts", "flow_runs.jsonl")
SCHEDULED_TAG = "auto-scheduled"  # Prefect's tag of the runs that a schedule created
TIMEOUT_S = 600.0


def record_run(project: Path, name: str, tags: list[str], started: datetime, state: str, message: str) -> None:
    """Append a run to the record, which `clipbert dashboard` shows.

    Args:
        name: of the flow run.
        tags: of the flow run.
        started: in UTC.
        state: the name of the final state, such as "Completed".
        message: of the final state; its first line is recorded.
    """
    run = {
        "started": started.isoformat(timespec="seconds"),
        "name": name,
        "scheduled": SCHEDULED_TAG in tags,
        "state": state,
        "message": redact(message.split("\n", 1)[0])[:300],
        "seconds": round((datetime.now(UTC) - started).total_seconds(), 1),
    }
    path = project / FLOW_RUNS
    path.parent.mkdir(exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(run, ensure_ascii=False) + "\n")


def write_dashboard(project: Path) -> str | None:
    """Write the dashboard of a project; return why it could not be written, None if it was."""
    command = [sys.executable, "-m", "clipbert", "dashboard"]
    try:
        done = subprocess.run(
            command, cwd=project, env=environment(), capture_output=True, text=True, timeout=TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired:
        return f"`clipbert dashboard` took more than {TIMEOUT_S:.0f} s"
    return None if done.returncode == 0 else redact(done.stderr.strip() or done.stdout.strip())
