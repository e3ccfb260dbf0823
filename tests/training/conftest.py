"""Uninterrupted trainings, run once, that tests of interrupted ones compare with."""

from pathlib import Path

import pytest
from shared_folder import shared_folder
from trainings import STEPS, finished, settings, started, steps_of


@pytest.fixture(scope="session")
def undisturbed(tiny_project: Path, request: pytest.FixtureRequest) -> Path:
    """The output folder of an uninterrupted training in one process (training_process.py)."""

    def make(out: Path) -> None:
        finished(started(tiny_project, out, settings()))
        assert sorted(steps_of(out)) == list(range(STEPS))

    return shared_folder(request, "undisturbed", make)


@pytest.fixture(scope="session")
def undisturbed_pair(tiny_project: Path, request: pytest.FixtureRequest) -> Path:
    """The output folder of an uninterrupted training in two processes."""
    return shared_folder(
        request, "undisturbed_pair", lambda out: finished(started(tiny_project, out, settings(), processes=2))
    )
