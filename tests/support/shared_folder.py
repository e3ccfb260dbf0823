"""Folders that are expensive to make, made once per test session and shared by all pytest-xdist workers."""

from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock


def shared_folder(request: pytest.FixtureRequest, name: str, make: Callable[[Path], object]) -> Path:
    """Return a folder of the session, made by the first worker that asks for it while the others wait.

    Tests of several workers read the folder at the same time, so none may change it.

    Args:
        name: unique in the session.
        make: fills the empty folder it receives; when it fails, the next caller tries again with another folder.
    """
    factory: pytest.TempPathFactory = request.getfixturevalue("tmp_path_factory")
    # The temporary folder of a worker is inside the one of the session.
    base = factory.getbasetemp().parent if is_worker(request.config) else factory.getbasetemp()
    done = base / f"{name}.path"
    with FileLock(base / f"{name}.lock"):
        if not done.exists():
            folder = factory.mktemp(name)
            make(folder)
            done.write_text(str(folder))
    return Path(done.read_text())


def is_worker(config: pytest.Config) -> bool:
    """Return whether this process is a worker of pytest-xdist."""
    return hasattr(config, "workerinput")
