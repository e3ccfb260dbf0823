"""`make ui` for the session, a real Prefect server, worker and MLflow; and DVC projects for them to work in."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from prefect_server import PROGRAMS, Prefect, free_port, make_project, until


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
    """The pages of a project with prefect.yaml deployed and a worker; all of it ends with the session."""
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
    environment.pop("PREFECT_API_URL", None)
    log = folder / "ui.log"
    with log.open("wb") as output:
        command = [sys.executable, "-m", "flows.ui"]
        ui = subprocess.Popen(command, cwd=project, env=environment, stdout=output, stderr=output)
    try:
        until(lambda: ui.poll() is not None or "Ctrl-C stops everything" in log.read_text())
        assert ui.poll() is None, log.read_text()
        api = f"http://127.0.0.1:{prefect}/api"
        yield Prefect(api, f"http://127.0.0.1:{mlflow}", environment | {"PREFECT_API_URL": api}, log.read_text())
    finally:
        ui.send_signal(signal.SIGINT)
        ui.wait(60)
