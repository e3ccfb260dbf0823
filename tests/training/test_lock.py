"""One training of a task at a time: the lock of its checkpoints."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from clipbert.errors import ClipBertError
from clipbert.training import lock

HOLDER = """
import sys, time
from pathlib import Path
from clipbert.training.lock import training_lock
with training_lock(Path(sys.argv[1])):
    print("locked", flush=True)
    time.sleep(600)
"""


@pytest.mark.slow
def test_a_second_training_names_the_first_and_starts_once_it_is_dead(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock, "WAIT_S", 0.1)
    folder = tmp_path / "checkpoints" / "retrieval"
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, str(folder)], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "locked\n"
        running = rf"process {holder.pid}\. Wait for it, or stop it with `kill {holder.pid}`"
        with pytest.raises(ClipBertError, match=running), lock.training_lock(folder):
            pass
        holder.send_signal(signal.SIGKILL)
        holder.wait()
        with lock.training_lock(folder):
            assert (folder / ".lock").read_text() == str(os.getpid())
    finally:
        holder.kill()
        holder.communicate()


def test_a_read_only_folder_is_an_error_of_the_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object, **named: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(ClipBertError, match=r"\.lock: cannot be written"), lock.training_lock(tmp_path / "retrieval"):
        pass
