"""`make ui` for the session, a real Prefect server, worker and MLflow; and DVC projects for them to work in."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from prefect_server import PROGRAMS, Prefect, make_project, wait_until
from server_logs import assert_no_errors

from flows.api_password import api_password
from flows.prefect_api import PrefectApi
from flows.servers import USER, free_port


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project as it is before anything ran."""
    return make_project(tmp_path_factory.mktemp("template") / "project")


@pytest.fixture
def project(template: Path, tmp_path: Path) -> Path:
    """A project of the test's own."""
    return shutil.copytree(template, tmp_path / "project")


@pytest.fixture(scope="session")
def prefect(template: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prefect]:
    """The pages of a project with prefect.yaml deployed and a worker; all of it ends with the session.

    No background service of the servers may have reported an error by then.
    """
    folder = tmp_path_factory.mktemp("pages")
    project = shutil.copytree(template, folder / "project")
    mlflow, prefect = free_port(), free_port()
    environment = {name: value for name, value in os.environ.items() if name != "MLFLOW_TRACKING_URI"} | {
        "PATH": f"{PROGRAMS}{os.pathsep}{os.environ['PATH']}",
        "PREFECT_HOME": str(folder / "home"),
        "PREFECT_LOGGING_TO_API_BATCH_INTERVAL": "0.5",
        "CLIPBERT_MLFLOW_PORT": str(mlflow),
        "CLIPBERT_PREFECT_PORT": str(prefect),
    }
    for name in ("PREFECT_API_URL", "PREFECT_API_AUTH_STRING"):
        environment.pop(name, None)
    log, logs = folder / "ui.log", folder / "logs"
    with log.open("wb") as output:
        command = [sys.executable, "-m", "flows.ui", "--logs", str(logs)]
        ui = subprocess.Popen(command, cwd=project, env=environment, stdout=output, stderr=output)
    try:
        wait_until(lambda: ui.poll() is not None or "Ctrl-C stops everything" in log.read_text())
        assert ui.poll() is None, log.read_text()
        url, password = f"http://127.0.0.1:{prefect}/api", api_password(project)
        auth_string = f"{USER}:{password}"
        client = environment | {"PREFECT_API_URL": url, "PREFECT_API_AUTH_STRING": auth_string}
        api, address = PrefectApi(url, auth_string), f"http://127.0.0.1:{mlflow}"
        yield Prefect(api, address, client, log, project, password, ui)
    finally:
        ui.send_signal(signal.SIGINT)
        ui.wait(60)
    assert_no_errors(logs / "MLflow.log", logs / "Prefect.log")
