"""Programs of `make ui`: the MLflow server, the Prefect server and a worker for each work pool."""

import json
import os
import secrets
import signal
import socket
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import IO

import httpx

from clipbert.redact import redact
from clipbert.web_guard import LOGIN_PATH, USER, Access, write_access
from flows.automations import HEARTBEAT_S, deploy_automations
from flows.deployments import mark_abandoned_runs, update_deployments
from flows.prefect_api import PrefectApi, PrefectApiError
from flows.supervisor import HOST, SupervisedProcess, Supervisor, environment
from flows.work_pools import POOLS, count_gpus, create_pools, has_job_template, limit_gpu_tasks

WORKER = "worker "  # the name of a worker is this and its pool
START_S = 300.0
POLL_S = 0.5
LOG_LINES = 15
LOCKED = "database is locked"
LOCKED_ATTEMPTS = 5
LONGEST_RESTART_DELAY_S = 60.0
STEADY_S = 120.0  # a worker that ran this long is restarted without a delay


class ServerError(Exception):
    """A program cannot run; the message names the reason and what to do."""


@dataclass
class Program:
    """A started program and the settings for its restart."""

    command: list[str]
    environment: dict[str, str]
    ending: signal.Signals
    process: SupervisedProcess
    started: float = field(default_factory=time.monotonic)


class Servers:
    """Programs of `make ui`, each with a log file, which end with the supervisor.

    Args:
        root: the project's folder.
        supervisor: starts and ends the programs.
        logs: the folder for their logs.
        password: the API password of the project.
        notify: receives messages for the user.
    """

    def __init__(
        self, root: Path, supervisor: Supervisor, logs: Path, password: str, notify: Callable[[str], None] = print
    ) -> None:
        self.root = root
        self.logs = logs
        self.environment = environment() | {"PREFECT_CLIENT_MAX_RETRIES": "8"}
        self._notify = notify
        self._supervisor = supervisor
        self._password = password
        self._login_token = secrets.token_urlsafe(24)
        self._running: dict[str, Program] = {}
        self._restart_delays: dict[str, float] = {}
        self._restart_times: dict[str, float] = {}
        self.api: PrefectApi | None = None

    def mlflow(self, port: int) -> str:
        """Start MLflow on the store of the project, or on the database that MLFLOW_TRACKING_URI names.

        Returns:
            Its address.
        """
        require_free_port(port, "MLflow", "CLIPBERT_MLFLOW_PORT")
        folder = self.root / "mlflow"
        folder.mkdir(exist_ok=True)
        store = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{folder / 'mlflow.db'}"
        access = Access("MLflow", port, self._password, self._login_token, session="cookie")
        address = ["--host", HOST, "--port", str(port), "--workers", "1", "--app-name", "clipbert"]
        address += ["--allowed-hosts", ",".join(access.hosts)]
        address += ["--artifacts-destination", str(folder / "artifacts")]
        # The URI of a database may contain a password, and every user of the machine can read command lines.
        extra = {
            "MLFLOW_BACKEND_STORE_URI": store,
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
            "CLIPBERT_ACCESS": write_access(access),
        }
        self._start("MLflow", [sys.executable, "-m", "mlflow", "server", *address], extra)
        return f"http://{HOST}:{port}"

    def prefect(self, port: int) -> str:
        """Start the Prefect server, which programs that are started later use.

        Returns:
            Its address.
        """
        require_free_port(port, "Prefect", "CLIPBERT_PREFECT_PORT")
        address = f"http://{HOST}:{port}"
        access = Access("Prefect", port, self._password, self._login_token, session="prefect")
        auth_string = f"{USER}:{self._password}"
        self._start("Prefect", [sys.executable, "-m", "flows.prefect_app"], server_environment(access, auth_string))
        self.environment |= {"PREFECT_API_URL": f"{address}/api", "PREFECT_API_AUTH_STRING": auth_string}
        self.api = PrefectApi(f"{address}/api", auth_string)
        return address

    def sign_in_link(self, address: str) -> str:
        """Return the link that signs a browser in to one of the servers."""
        return f"{address}{LOGIN_PATH}#{self._login_token}"

    def workers(self, api: PrefectApi, mlflow: str, scheduled: bool) -> bool:
        """Start a worker for each pool, which runs flows in this project, and deploy entries of prefect.yaml.

        Returns:
            Whether any schedule is on.

        Raises:
            ServerError: a worker does not start, or the deployments fail.
        """
        for line in deploy_automations(api):
            self._notify(f"Prefect: {line}")
        create_pools(api)
        limit_gpu_tasks(api, count_gpus())
        own = {"CLIPBERT_ROOT": str(self.root), "CLIPBERT_MLFLOW_UI": mlflow, "PREFECT_WORKER_QUERY_SECONDS": "2"}
        own |= {"PREFECT_FLOWS_HEARTBEAT_FREQUENCY": str(HEARTBEAT_S)}
        for pool in POOLS:
            mark_abandoned_runs(api, pool, "make ui was stopped during the run")
            command = [sys.executable, "-m", "prefect", "worker", "start", "--pool", pool, "--type", "process"]
            self._start(f"{WORKER}{pool}", command, own, signal.SIGINT)
        for pool in POOLS:
            # A worker adds the template of its jobs to a pool that has none.
            self.wait_until_ready(f"{WORKER}{pool}", partial(has_job_template, api, pool))
        return update_deployments(api, self.root, self._deploy, scheduled, self._notify)

    def wait_until_ready(self, name: str, ready: Callable[[], bool]) -> None:
        """Wait until `ready` returns True; restart the program if it ended because a database was locked.

        Raises:
            ServerError: a program ended, or the program is not ready after START_S.
        """
        deadline = time.monotonic() + START_S
        attempts = 1
        while not ready():
            program = self._running[name]
            if program.process.poll() is not None and LOCKED in self.log_tail(name) and attempts < LOCKED_ATTEMPTS:
                self._notify(f"{name}: its database was locked by another process; restarting it")
                time.sleep(2.0**attempts)
                attempts += 1
                self._restart(name)
            self.check_running(workers=True)
            if time.monotonic() > deadline:
                raise ServerError(f"{name} is not ready after {START_S:g} s. Its log ends with:\n{self.log_tail(name)}")
            time.sleep(POLL_S)

    def check_running(self, workers: bool = False) -> None:
        """Check that all servers are running, and with `workers` all workers.

        Raises:
            ServerError: a program has ended; the message has the end of its log.
        """
        for name, program in self._running.items():
            checked = workers or not name.startswith(WORKER)
            if checked and (code := program.process.poll()) is not None:
                raise ServerError(f"{name} ended with exit code {code}. Its log ends with:\n{self.log_tail(name)}")

    def restart_ended_workers(self) -> None:
        """Restart workers that have ended: immediately, then after 2, 4, 8, ... seconds if they end repeatedly."""
        for pool in POOLS:
            worker = self._running.get(f"{WORKER}{pool}")
            if worker is not None and (code := worker.process.poll()) is not None:
                self._restart_worker(pool, worker, code)

    def _restart_worker(self, pool: str, worker: Program, code: int) -> None:
        name, now = f"{WORKER}{pool}", time.monotonic()
        if name not in self._restart_times:
            delay = 0.0 if now - worker.started > STEADY_S else self._restart_delays.get(name, 0.0)
            when = f"in {delay:g} s" if delay else "now"
            self._notify(
                f"The worker of the pool {pool} ended with exit code {code}; restarting it {when}. "
                f"Log: {self._log(name)}"
            )
            self._restart_times[name] = now + delay
            self._restart_delays[name] = min(max(2.0, 2 * delay), LONGEST_RESTART_DELAY_S)
        if now < self._restart_times[name]:
            return
        del self._restart_times[name]
        try:
            if self.api is not None:
                mark_abandoned_runs(self.api, pool, "The worker ended during the run")
        except PrefectApiError as error:
            self._notify(f"Runs of the ended worker could not be marked as crashed: {error}")
        self._restart(name)

    def stop_workers(self) -> None:
        """End the workers before their server ends."""
        stopped = [self._running.pop(name) for name in list(self._running) if name.startswith(WORKER)]
        for worker in stopped:
            worker.process.stop()
        for worker in stopped:
            worker.process.wait()

    def log_tail(self, name: str) -> str:
        """Return the last lines of a program's log, with secrets redacted."""
        text = redact(self._log(name).read_text(encoding="utf-8", errors="replace"))
        return "\n".join(f"  {line}" for line in text.splitlines()[-LOG_LINES:])

    def _deploy(self, names: list[str]) -> None:
        """Run `prefect deploy` for these deployments of prefect.yaml; retry while a database is locked."""
        command = [sys.executable, "-m", "prefect", "--no-prompt", "deploy"]
        for name in names:
            command += ["--name", name]
        for attempt in range(LOCKED_ATTEMPTS):
            code = self._start("deploy", command).process.wait()
            del self._running["deploy"]
            if code == 0:
                return
            if LOCKED not in self.log_tail("deploy") and "503" not in self.log_tail("deploy"):
                break
            time.sleep(2.0**attempt)
        raise ServerError(f"The deployments of prefect.yaml failed:\n{self.log_tail('deploy')}")

    def _start(
        self,
        name: str,
        command: list[str],
        extra: dict[str, str] | None = None,
        ending: signal.Signals = signal.SIGTERM,
    ) -> Program:
        self._log(name).unlink(missing_ok=True)
        full = self.environment | (extra or {})
        self._running[name] = Program(command, full, ending, self._launch(name, command, full, ending))
        return self._running[name]

    def _restart(self, name: str) -> None:
        old = self._running[name]
        process = self._launch(name, old.command, old.environment, old.ending)
        self._running[name] = Program(old.command, old.environment, old.ending, process)

    def _launch(self, name: str, command: list[str], full: dict[str, str], ending: signal.Signals) -> SupervisedProcess:
        log: IO[bytes]
        # Servers write URIs with passwords into their logs, so only the owner may read them.
        with open(self._log(name), "ab", opener=lambda path, flags: os.open(path, flags, 0o600)) as log:
            os.fchmod(log.fileno(), 0o600)
            return self._supervisor.start(command, full, ending, log)

    def _log(self, name: str) -> Path:
        return self.logs / f"{name}.log"


def server_environment(access: Access, auth_string: str) -> dict[str, str]:
    """Return the settings of a Prefect server that answers only its own pages and programs with the password."""
    origin = f"http://{access.hosts[0]}"
    return {
        "CLIPBERT_ACCESS": write_access(access),
        "PREFECT_API_URL": f"{origin}/api",
        "PREFECT_API_AUTH_STRING": auth_string,
        "PREFECT_SERVER_API_AUTH_STRING": auth_string,
        "PREFECT_SERVER_API_HOST": HOST,
        "PREFECT_SERVER_API_PORT": str(access.port),
        "PREFECT_SERVER_API_CSRF_PROTECTION_ENABLED": "true",
        "PREFECT_SERVER_CORS_ALLOWED_ORIGINS": origin,
        "PREFECT_SERVER_UI_API_URL": f"{origin}/api",
        # The second version of the UI loads an analytics library before it checks whether analytics is off.
        "PREFECT_SERVER_UI_V2_ENABLED": "false",
        "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
        # Releases the concurrency slots of a killed run even if the server was restarted since.
        "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect.server.concurrency.lease_storage.filesystem",
    }


def require_free_port(port: int, name: str, variable: str) -> None:
    """Check that a port can be used.

    Raises:
        ServerError: it cannot; the message says how to choose another one.
    """
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise ServerError(
                f"{name}: port {port} of {HOST} cannot be used ({error.strerror}). Stop the program that uses it, "
                f"or choose another port: make ui {variable}={port + 1}"
            ) from error


def free_port() -> int:
    """Return an unused port of 127.0.0.1."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def is_responding(url: str) -> bool:
    """Return whether a GET request to `url` succeeds now."""
    try:
        return httpx.get(url, timeout=10, follow_redirects=True).is_success
    except httpx.HTTPError:
        return False


def shell_exports(password: str, prefect: str) -> str:
    """Return the shell commands with which another terminal uses the Prefect server of `make ui`.

    MLflow's variables are not included: the project's commands write to the store directly, and MLFLOW_TRACKING_TOKEN
    would also be sent to any other server that MLFLOW_TRACKING_URI names.
    """
    values = {"PREFECT_API_URL": f"{prefect}/api", "PREFECT_API_AUTH_STRING": f"{USER}:{password}"}
    return "".join(f"export {name}={json.dumps(value)}\n" for name, value in values.items())
