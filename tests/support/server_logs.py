"""Errors and tracebacks in the logs of the MLflow and Prefect servers that tests start.

A background service that fails on every pass (a scheduler that never creates a run) shows nowhere else: fixtures that
start a server call `assert_no_errors` when they stop it.
"""

import re
from pathlib import Path

_RECORD = re.compile(r"^(\d\d:\d\d:\d\d\.\d+ \||\d{4}[-/]\d\d[-/]\d\d[ T]\d\d:\d\d|[A-Z]+:\s)")
_ERROR = re.compile(
    r"\b(ERROR|CRITICAL)\b|Traceback \(most recent call last\)|^\s*[\w.]*(Error|Exception): ", re.MULTILINE
)

# What may stand in a log, with the reason. Each pattern is searched in one record: a line with the lines that follow it
# up to the next time stamp.
ALLOWED = {
    r"sqlite3\.OperationalError\)?:? database is locked": "a test locks the SQLite file on purpose; services "
    "try again at their next pass, as the tests of schedules and runs show",
    r"asyncio\.exceptions\.CancelledError(?s:.)*\Z": "uvicorn reports requests that a stopping server breaks off",
}
_ALLOWED = [re.compile(pattern) for pattern in ALLOWED]


def find_errors(log: str) -> list[str]:
    """Return the records of a server's log that report an error and are not allowed."""
    records: list[list[str]] = []
    for line in log.splitlines():
        if not records or _RECORD.match(line):
            records.append([])
        records[-1].append(line)
    texts = ["\n".join(lines) for lines in records]
    return [text for text in texts if _ERROR.search(text) and not any(allowed.search(text) for allowed in _ALLOWED)]


def assert_no_errors(*logs: Path) -> None:
    """Fail with the errors that the logs report."""
    found = {log.name: errors for log in logs if (errors := find_errors(log.read_text(errors="replace")))}
    assert not found, "\n".join(f"{name}:\n{text}" for name, errors in found.items() for text in errors)
