"""`make ui` for the session, a real Prefect server, worker and MLflow; and DVC projects for them to work in."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from prefect_server import Prefect, make_project, running_servers
from server_logs import assert_no_errors


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
    with running_servers(project, folder) as servers:
        yield servers
    assert_no_errors(folder / "logs" / "MLflow.log", folder / "logs" / "Prefect.log")
