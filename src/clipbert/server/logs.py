"""Structured logs: one JSON object a line, secrets hidden."""

import json
import logging
import sys
from datetime import UTC, datetime

from clipbert.redact import redact

KNOWN = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "color_message", "taskName"}


class JsonFormatter(logging.Formatter):
    """Formatter with time, level, logger, message and the fields that `extra` has."""

    def format(self, record: logging.LogRecord) -> str:
        """Return a record as a line."""
        moment = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        found = {
            "time": moment,
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        found |= {name: value for name, value in vars(record).items() if name not in KNOWN}
        if record.exc_info:
            found["exception"] = self.formatException(record.exc_info)
        return redact(json.dumps(found, ensure_ascii=False, default=str))


def install_logs(level: str = "info") -> None:
    """Send the records of all libraries to standard error as JSON."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    logging.getLogger("uvicorn.access").disabled = True  # `observe` logs requests
    for name in ("alembic", "mlflow", "httpx", "urllib3", "matplotlib", "PIL"):
        logging.getLogger(name).setLevel(logging.WARNING)
