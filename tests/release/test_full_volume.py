"""A full volume of mlflow/, which has the database of the store, its artifacts and the ledger: a real one of 32 MiB."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
PROGRAM = REPOSITORY / "tests" / "support" / "full_volume.py"
# A mount in a namespace of its own needs no rights on most systems, and ends with its process.
NAMESPACE = ("unshare", "--map-root-user", "--mount")
MOUNT = 'mount -t tmpfs -o size=32m volume "$1/mlflow" && exec "$2" "$3" "$1" "$4"'


def can_mount() -> bool:
    """Return whether this user may mount in a namespace of its own."""
    if shutil.which("unshare") is None:
        return False
    mounted = [*NAMESPACE, "mount", "-t", "tmpfs", "none", "/mnt"]
    return subprocess.run(mounted, capture_output=True, check=False).returncode == 0


@pytest.mark.slow
def test_on_a_full_volume_nothing_is_half_done_and_the_same_commands_succeed_when_there_is_space(
    empty_database: Path, tmp_path: Path
) -> None:
    if not can_mount():
        pytest.skip("this system lets no user mount in a namespace")
    root = tmp_path / "project"
    (root / "mlflow").mkdir(parents=True)
    environment = {name: value for name, value in os.environ.items() if name != "MLFLOW_TRACKING_URI"}
    environment["PYTHONPATH"] = os.pathsep.join([str(REPOSITORY), str(REPOSITORY / "tests" / "support")])
    words = [*NAMESPACE, "bash", "-c", MOUNT, "bash", root, sys.executable, PROGRAM, empty_database]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    first = {"candidate": "1", "champion": "1"}
    assert found["before"] == found["after the registration"] == first
    assert (
        "mlflow/mlflow.db cannot be written: (sqlite3.OperationalError) database or disk is full" in found["register"]
    )
    assert "Make sure that the disk has free space" in found["register"]
    assert found["registered"] == found["after the promotion"] == {"candidate": "2", "champion": "1"}
    assert "the promotion ledger cannot be used: database or disk is full" in found["promote"]
    assert "Make sure that the disk has free space" in found["promote"]
    assert found["promoted"] == {"candidate": "2", "champion": "2", "previous": "1"}
