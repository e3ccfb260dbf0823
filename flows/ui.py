"""Servers of `make ui`: MLflow and Prefect on 127.0.0.1, and workers for flows that are started in the Prefect UI.

The servers use the project's databases, mlflow/mlflow.db and that of Prefect. Ctrl-C stops all of them.
"""

import argparse
import contextlib
import os
import signal
import sys
import tempfile
import time
from pathlib import Path

from clipbert.redact import install_redaction, redact
from flows import PROJECT
from flows.api_password import ApiPasswordError, api_password
from flows.channels import ChannelError
from flows.prefect_api import PrefectApiError
from flows.servers import POLL_S, ServerError, Servers, is_responding, shell_exports
from flows.supervisor import HOST, Supervisor


def serve(
    root: Path, mlflow_port: int, prefect_port: int, worker: bool, scheduled: bool, logs: Path | None = None
) -> None:
    """Run the servers until interrupted.

    Args:
        root: the project's folder.
        mlflow_port: the port of the MLflow server.
        prefect_port: the port of the Prefect server.
        worker: also start the workers.
        scheduled: switch the schedules of prefect.yaml on.
        logs: the folder for the servers' logs; None: a temporary one.

    Raises:
        ServerError, PrefectApiError: a port is in use, or a server does not start or ends.
        ApiPasswordError: the project's password file cannot be used.
        ChannelError: a variable of a notification channel has an invalid value.
    """
    elsewhere = os.environ.get("MLFLOW_TRACKING_URI", "")
    shared = os.environ.get("PREFECT_API_URL")
    with contextlib.ExitStack() as stack:
        if logs is None:
            logs = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="clipbert-ui-")))
        logs.mkdir(mode=0o700, parents=True, exist_ok=True)
        supervisor = stack.enter_context(Supervisor(root))
        servers = Servers(root, supervisor, logs, api_password(root), lambda line: print(line, flush=True))
        remote = elsewhere.startswith(("http://", "https://"))
        mlflow = elsewhere if remote else servers.mlflow(mlflow_port)
        prefect = shared.removesuffix("/api") if shared else servers.prefect(prefect_port)
        print("Starting", flush=True)
        if not remote:
            servers.wait_until_ready("MLflow", lambda: is_responding(f"{mlflow}/health"))
        print(
            f"MLflow   {f'{redact(mlflow)}  (MLFLOW_TRACKING_URI)' if remote else servers.sign_in_link(mlflow)}",
            flush=True,
        )
        api = servers.api
        if api is None:
            print(f"Prefect  {prefect}  (PREFECT_API_URL)", flush=True)
        else:
            servers.wait_until_ready("Prefect", api.is_healthy)
            print(f"Prefect  {servers.sign_in_link(prefect)}", flush=True)
        try:
            if worker and api is not None:
                is_scheduled = servers.workers(api, mlflow, scheduled)
                print(f"         {prefect}/deployments: run, receive data, retrain, promote, roll back")
                hint = "" if is_scheduled else " (switch them on there, or by python -m flows.ui --schedule)"
                on = "on: switch each on or off there" if is_scheduled else "off"
                print(f"         the schedules are {on}{hint}", flush=True)
            print("The links sign this browser in. Other terminals: python -m flows.ui --env (docs/how-to/security.md)")
            print(f"Logs     {logs}\nCtrl-C stops everything.", flush=True)
            while True:
                servers.check_running()
                servers.restart_ended_workers()
                time.sleep(POLL_S)
        finally:
            servers.stop_workers()


def main() -> int:
    """Run the servers; return exit code 0 after Ctrl-C, 2 if a port is in use or a server fails."""
    parser = argparse.ArgumentParser(prog="python -m flows.ui", description=(__doc__ or "").split("\n")[0])
    ports = {"mlflow": ("CLIPBERT_MLFLOW_PORT", "5000"), "prefect": ("CLIPBERT_PREFECT_PORT", "4200")}
    for name, (variable, usual) in ports.items():
        port = os.environ.get(variable, usual)
        parser.add_argument(f"--{name}-port", type=int, default=port, help=f"{usual}, or {variable}")
    parser.add_argument("--no-worker", action="store_true", help="only the servers; flows cannot be started in the UI")
    parser.add_argument("--schedule", action="store_true", help="switch the schedules of prefect.yaml on")
    parser.add_argument("--logs", type=Path, metavar="FOLDER", help="keep the servers' logs in this folder")
    parser.add_argument("--env", action="store_true", help="print shell commands that connect a terminal to Prefect")
    options = parser.parse_args()
    if not options.env:  # its output is the password
        install_redaction()
    for ending in (signal.SIGINT, signal.SIGTERM):
        signal.signal(ending, signal.default_int_handler)
    try:
        if options.env:
            print(shell_exports(api_password(PROJECT), f"http://{HOST}:{options.prefect_port}"), end="")
            return 0
        serve(
            PROJECT,
            options.mlflow_port,
            options.prefect_port,
            worker=not options.no_worker,
            scheduled=options.schedule,
            logs=options.logs,
        )
    except KeyboardInterrupt:
        print("\nStopped.")
        return 0
    except (ServerError, PrefectApiError, ApiPasswordError, ChannelError) as error:
        print(f"make ui: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
