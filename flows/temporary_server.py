"""Temporary Prefect server for a single flow, if no server is running."""

import contextlib
import secrets
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from prefect.client.schemas.objects import State
from prefect.events.worker import EventsWorker
from prefect.logging.handlers import APILogWorker
from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL, get_current_settings, temporary_settings

from clipbert.redact import redact
from clipbert.web_guard import USER, Access
from flows.prefect_api import PrefectApi
from flows.servers import LOG_LINES, START_S, ServerError, free_port, server_environment
from flows.supervisor import HOST, Supervisor, environment

POLL_S = 0.1
DRAIN_S = 10.0
INTERRUPTED = 130


@contextlib.contextmanager
def temporary_server(root: Path) -> Iterator[None]:
    """Start a Prefect server for this process, unless PREFECT_API_URL names one.

    The server ends with the context, and when this process ends in any way. It stores its runs in the database that
    `make ui` shows. Only this process knows its password.

    Args:
        root: the project's folder.

    Raises:
        ServerError: the server does not start.
    """
    if get_current_settings().api.url is not None:
        yield
        return
    password = secrets.token_urlsafe(32)
    access = Access("Prefect", free_port(), password, session="prefect")
    auth_string, url = f"{USER}:{password}", f"http://{HOST}:{access.port}/api"
    with tempfile.TemporaryFile() as log, Supervisor(root) as supervisor:
        settings = environment() | server_environment(access, auth_string) | {"PREFECT_SERVER_UI_ENABLED": "false"}
        command = [sys.executable, "-m", "flows.prefect_app", "--ephemeral"]
        server = supervisor.start(command, settings, output=log)
        api, deadline = PrefectApi(url, auth_string), time.monotonic() + START_S
        while not api.is_healthy():
            if server.poll() is not None or time.monotonic() > deadline:
                log.seek(0)
                tail = redact(log.read().decode("utf-8", "replace")).splitlines()[-LOG_LINES:]
                raise ServerError("The temporary Prefect server does not start:\n" + "\n".join(tail))
            time.sleep(POLL_S)
        with temporary_settings({PREFECT_API_URL: url, PREFECT_API_AUTH_STRING: auth_string}):
            try:
                yield
            finally:  # what is left, as after Ctrl-C, would be sent at exit, without end to a server that has ended
                for sender in (APILogWorker, EventsWorker):
                    sender.drain_all(timeout=DRAIN_S)


def run_from_terminal(root: Path, start: Callable[[], State[Any]]) -> State[Any] | None:
    """Run a flow with a server and return its state; None if it did not complete, after printing why to stderr.

    Args:
        root: the project's folder.
        start: calls the flow with `return_state=True`.

    Raises:
        SystemExit: with exit code 130, after Ctrl-C.
    """
    try:
        with temporary_server(root):
            state = start()
    except KeyboardInterrupt:
        print("Interrupted; the same command continues.", file=sys.stderr)
        raise SystemExit(INTERRUPTED) from None
    except ServerError as error:
        print(error, file=sys.stderr)
        return None
    if state.is_completed():
        return state
    print(state.message, file=sys.stderr)
    return None
