"""Trainings that nothing disturbs, made once, for the tests that disturb others."""

from pathlib import Path

import pytest
from trainings import STEPS, finished, settings, started, steps_of


@pytest.fixture(scope="session")
def undisturbed(tiny_project: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a training of one process leaves (training_process.py)."""
    out = tmp_path_factory.mktemp("undisturbed")
    finished(started(tiny_project, out, settings()))
    assert sorted(steps_of(out)) == list(range(STEPS))
    return out


@pytest.fixture(scope="session")
def undisturbed_pair(tiny_project: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What one of two processes leaves."""
    out = tmp_path_factory.mktemp("undisturbed_pair")
    finished(started(tiny_project, out, settings(), processes=2))
    return out
