"""`make ui`: the MLflow and Prefect servers on 127.0.0.1, and a worker for what is started from the Prefect page.

Both servers show what the project keeps: mlflow/mlflow.db and Prefect's database. Ctrl-C stops everything.
"""

import argparse
import json
import os
import signal
import socket
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

from clipbert.redact import install, redact
from flows import PROJECT
from flows.process import Supervised, Supervisor, environment

HOST = "127.0.0.1"
POOL = "clipbert"
START_S = 300.0
POLL_S = 0.5
LOG_LINES = 15


class UiError(Exception):
    """The servers cannot run; the message says why and what to do."""


class Servers:
    """The programs behind the pages, each with its log in `logs`, ended when the supervisor ends."""

    def __init__(self, root: Path, supervisor: Supervisor, logs: Path) -> None:
        self.root = root
        self.logs = logs
        self.environment = environment()
        self._supervisor = supervisor
        self._running: dict[str, Supervised] = {}

    def mlflow(self, port: int) -> str:
        """Start MLflow over the store of the project, or the database that MLFLOW_TRACKING_URI names; its address."""
        claim(port, "MLflow", "CLIPBERT_MLFLOW_PORT")
        folder = self.root / "mlflow"
        folder.mkdir(exist_ok=True)
        store = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{folder / 'mlflow.db'}"
        address = ["--host", HOST, "--port", str(port), "--workers", "1"]
        places = ["--backend-store-uri", store, "--artifacts-destination", str(folder / "artifacts")]
        command = [sys.executable, "-m", "mlflow", "server", *address, *places]
        self._start("MLflow", command, {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"})
        return f"http://{HOST}:{port}"

    def prefect(self, port: int) -> str:
        """Start the Prefect server; its address. What is started afterwards reports to it."""
        claim(port, "Prefect", "CLIPBERT_PREFECT_PORT")
        api = f"http://{HOST}:{port}/api"
        self.environment |= {"PREFECT_API_URL": api, "PREFECT_UI_API_URL": api}
        command = [sys.executable, "-m", "prefect", "server", "start", "--host", HOST, "--port", str(port)]
        # Slots of concurrency limits that a killed run held are given back even if the server was restarted since.
        leases = "prefect.server.concurrency.lease_storage.filesystem"
        self._start("Prefect", command, {"PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": leases})
        return f"http://{HOST}:{port}"

    def worker(self, api: str, mlflow: str, scheduled: bool) -> None:
        """Start a worker that runs flows in this project, and deploy them; their schedules sleep unless `scheduled`."""
        end_abandoned_runs(api)
        own = {"CLIPBERT_ROOT": str(self.root), "CLIPBERT_MLFLOW_UI": mlflow, "PREFECT_WORKER_QUERY_SECONDS": "2"}
        prefect = [sys.executable, "-m", "prefect"]
        self._start("worker", [*prefect, "worker", "start", "--pool", POOL, "--type", "process"], own, signal.SIGINT)
        self.until("worker", lambda: call("GET", f"{api}/work_pools/{POOL}") is not None)
        deploy = self._start("deploy", [*prefect, "--no-prompt", "deploy", "--all"])
        if deploy.wait() != 0:
            raise UiError(f"The deployments of prefect.yaml cannot be made:\n{self.tail('deploy')}")
        del self._running["deploy"]
        for deployment in call("POST", f"{api}/deployments/filter", {}) or []:
            for schedule in deployment["schedules"]:
                path = f"{api}/deployments/{deployment['id']}/schedules/{schedule['id']}"
                call("PATCH", path, {"active": scheduled})

    def until(self, name: str, ready: Callable[[], bool]) -> None:
        """Wait until `ready`.

        Raises:
            UiError: one of the programs ended meanwhile, or nothing happened for minutes.
        """
        deadline = time.monotonic() + START_S
        while not ready():
            self.check()
            if time.monotonic() > deadline:
                raise UiError(f"{name} is not ready after {START_S:g} s. Its log ends with:\n{self.tail(name)}")
            time.sleep(POLL_S)

    def check(self) -> None:
        """See that everything runs.

        Raises:
            UiError: a program has ended; with the end of its log.
        """
        for name, process in self._running.items():
            if (code := process.poll()) is not None:
                raise UiError(f"{name} ended with exit code {code}. Its log ends with:\n{self.tail(name)}")

    def stop_worker(self) -> None:
        """End the worker while its server still hears it."""
        if worker := self._running.pop("worker", None):
            worker.stop()
            worker.wait()

    def tail(self, name: str) -> str:
        """The last lines of a program's log."""
        lines = (self.logs / f"{name}.log").read_text(encoding="utf-8", errors="replace").splitlines()
        return redact("\n".join(f"  {line}" for line in lines[-LOG_LINES:]))

    def _start(
        self,
        name: str,
        command: list[str],
        extra: dict[str, str] | None = None,
        ending: signal.Signals = signal.SIGTERM,
    ) -> Supervised:
        log: IO[bytes]
        with (self.logs / f"{name}.log").open("wb") as log:
            process = self._supervisor.start(command, self.environment | (extra or {}), ending, log)
        self._running[name] = process
        return process


def claim(port: int, name: str, variable: str) -> None:
    """See that nothing listens on a port.

    Raises:
        UiError: something does; with the way to choose another.
    """
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise UiError(
                f"{name}: port {port} of {HOST} cannot be used ({error.strerror}). End what uses it, or choose "
                f"another: make ui {variable}={port + 1}"
            ) from error


def end_abandoned_runs(api: str) -> None:
    """Mark runs that an earlier worker left unfinished as crashed: nobody works on them."""
    unfinished = {"state": {"type": {"any_": ["PENDING", "RUNNING", "CANCELLING", "PAUSED"]}}}
    ours = {"work_pools": {"name": {"any_": [POOL]}}}
    for run in call("POST", f"{api}/flow_runs/filter", {"flow_runs": unfinished, **ours}) or []:
        state = {"type": "CRASHED", "name": "Crashed", "message": "make ui was stopped while it ran"}
        call("POST", f"{api}/flow_runs/{run['id']}/set_state", {"state": state, "force": True})


def call(method: str, url: str, body: Any = None) -> Any:
    """The JSON that a server answers; None when it does not answer, or with an error."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"content-type": "application/json"}, method=method)
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return json.loads(answer.read() or b"true")
    except (urllib.error.URLError, OSError):
        return None
    except ValueError:
        return True


def serve(root: Path, mlflow_port: int, prefect_port: int, worker: bool, scheduled: bool) -> None:
    """Run until interrupted.

    Raises:
        UiError: a port is taken, or a program does not start or ends.
    """
    elsewhere = os.environ.get("MLFLOW_TRACKING_URI", "")
    shared = os.environ.get("PREFECT_API_URL")
    with tempfile.TemporaryDirectory(prefix="clipbert-ui-") as logs, Supervisor(root) as supervisor:
        servers = Servers(root, supervisor, Path(logs))
        remote = elsewhere.startswith(("http://", "https://"))
        mlflow = elsewhere if remote else servers.mlflow(mlflow_port)
        prefect = shared.removesuffix("/api") if shared else servers.prefect(prefect_port)
        print("Starting", flush=True)
        if not remote:
            servers.until("MLflow", lambda: call("GET", f"{mlflow}/health") is not None)
        print(f"MLflow   {redact(mlflow)}{'  (MLFLOW_TRACKING_URI)' if remote else ''}", flush=True)
        if not shared:
            servers.until("Prefect", lambda: call("GET", f"{prefect}/api/health") is not None)
        print(f"Prefect  {redact(prefect)}{'  (PREFECT_API_URL)' if shared else ''}", flush=True)
        try:
            if worker and not shared:
                servers.worker(f"{prefect}/api", mlflow, scheduled)
                print(f"         {prefect}/deployments: run, promote, roll back")
                print(f"         the daily schedule is {'on' if scheduled else 'off here (--schedule)'}", flush=True)
            print(f"Logs     {logs}\nCtrl-C stops everything.", flush=True)
            while True:
                servers.check()
                time.sleep(POLL_S)
        finally:
            servers.stop_worker()


def main() -> int:
    """The command line: exit code 0 after Ctrl-C, 2 when a port is taken or a server fails."""
    parser = argparse.ArgumentParser(prog="python -m flows.ui", description=(__doc__ or "").split("\n")[0])
    ports = {"mlflow": ("CLIPBERT_MLFLOW_PORT", "5000"), "prefect": ("CLIPBERT_PREFECT_PORT", "4200")}
    for name, (variable, usual) in ports.items():
        port = os.environ.get(variable, usual)
        parser.add_argument(f"--{name}-port", type=int, default=port, help=f"{usual}, or {variable}")
    parser.add_argument("--no-worker", action="store_true", help="only the pages: nothing can be run from them")
    parser.add_argument("--schedule", action="store_true", help="let the daily schedule start runs")
    options = parser.parse_args()
    install()
    for ending in (signal.SIGINT, signal.SIGTERM):
        signal.signal(ending, signal.default_int_handler)
    try:
        serve(PROJECT, options.mlflow_port, options.prefect_port, not options.no_worker, options.schedule)
    except KeyboardInterrupt:
        print("\nStopped.")
        return 0
    except UiError as error:
        print(f"make ui: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
