"""The services of deploy/compose.yaml, running for the session."""

from collections.abc import Iterator

import pytest
from postgres import MISSING, find_postgres
from shared_installation import SharedInstallation, missing_programs, shared_installation


@pytest.fixture(scope="session")
def installation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SharedInstallation]:
    """PostgreSQL, an S3 server, MLflow with accounts and Prefect, behind TLS."""
    if find_postgres() is None:
        pytest.skip(MISSING)
    if missing := missing_programs():
        pytest.skip(missing)
    with shared_installation(tmp_path_factory.mktemp("installation")) as installed:
        yield installed
