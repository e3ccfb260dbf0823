"""Prefect's side of the project: schedules, retries, time limits, GPU slots, logs, artifacts, approval.

The order of the work stands in dvc.yaml; nothing here knows what a stage does.
"""

import os
from pathlib import Path

from clipbert.redact import redact_logs

PROJECT = Path(__file__).resolve().parent.parent

_CHOSEN = {"PREFECT_HOME", "PREFECT_API_URL", "PREFECT_PROFILE", "PREFECT_PROFILES_PATH"}

# Read by Prefect when it is imported, so set before any module of this package imports it. Who has set up Prefect
# keeps what they have; otherwise its database stays in the project, next to nothing of the user's.
if not _CHOSEN & os.environ.keys() and not Path("~/.prefect/profiles.toml").expanduser().exists():
    os.environ["PREFECT_HOME"] = str(PROJECT / ".prefect")
os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
# Prefect's own temporary server answers every web page, and outlives a process that is killed. `flows.temporary_server`
# starts one that does neither.
os.environ.setdefault("PREFECT_SERVER_EPHEMERAL_ENABLED", "false")
# The server answers 503 while its SQLite database is locked; clients wait 2, 4, 8, ... seconds between their attempts.
os.environ.setdefault("PREFECT_CLIENT_MAX_RETRIES", "8")
# Logs of flows are kept in Prefect's database and shown in its pages.
redact_logs()
