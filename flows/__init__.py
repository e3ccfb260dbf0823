"""Prefect flows: schedules, retries, time limits, GPU slots, logs, artifacts and approval.

dvc.yaml defines the order of the stages; no code here depends on what a stage does.
"""

import os
from pathlib import Path

from clipbert.redact import redact_logs

PROJECT = Path(__file__).resolve().parent.parent

_CHOSEN = {"PREFECT_HOME", "PREFECT_API_URL", "PREFECT_PROFILE", "PREFECT_PROFILES_PATH"}

# Prefect reads these when it is imported, so they are set before any module of this package imports it. An existing
# setup of Prefect is used; without one, its database is kept in the project.
if not _CHOSEN & os.environ.keys() and not Path("~/.prefect/profiles.toml").expanduser().exists():
    os.environ["PREFECT_HOME"] = str(PROJECT / ".prefect")
os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
# Prefect's own temporary server answers requests of any web page and outlives a killed process. The server of
# `flows.temporary_server` does neither.
os.environ.setdefault("PREFECT_SERVER_EPHEMERAL_ENABLED", "false")
# A run that sends none for longer is marked as crashed (flows/automations.py).
os.environ.setdefault("PREFECT_FLOWS_HEARTBEAT_FREQUENCY", "30")
# The server answers 503 while its SQLite database is locked; clients then retry after 2, 4, 8, ... seconds.
os.environ.setdefault("PREFECT_CLIENT_MAX_RETRIES", "8")
# Prefect stores the logs of flows in its database and shows them in its UI.
redact_logs()
