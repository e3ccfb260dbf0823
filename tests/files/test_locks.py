import errno
import fcntl
import os
import subprocess
import sys
from pathlib import Path

import pytest

from clipbert.files.locks import Timeout, file_lock

HOLDER = """
import os, sys, time
from pathlib import Path
from clipbert.files.locks import file_lock
with file_lock(Path(sys.argv[1])):
    if sys.argv[2:] and os.fork() == 0:
        os.close(1)
        time.sleep(60)
        os._exit(0)
    print(os.getpid(), flush=True)
    time.sleep(1000)
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / ".lock"


@pytest.mark.slow
@pytest.mark.parametrize("forks", [False, True])
def test_the_lock_of_a_killed_process_is_free_even_while_its_child_lives(path: Path, forks: bool) -> None:
    command = [sys.executable, "-c", HOLDER, str(path), *(["fork"] if forks else [])]
    holder = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)
    assert holder.stdout is not None
    try:
        assert holder.stdout.readline().strip() == str(holder.pid)
        waited: list[bool] = []
        with pytest.raises(Timeout), file_lock(path, on_wait=lambda: waited.append(True)):
            pass
        assert waited == [True]
        holder.kill()
        holder.wait()
        with file_lock(path):
            assert path.exists()
    finally:
        holder.stdout.close()
        if forks:
            os.killpg(holder.pid, 9)


def test_a_file_that_is_left_blocks_nobody_and_keeps_its_text(path: Path) -> None:
    path.write_text("4711")
    with file_lock(path):
        assert path.read_text() == "4711"
    with file_lock(path):
        pass


def no_locks(descriptor: int, operation: int) -> None:
    raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))


def test_a_file_system_without_locks_is_reported_or_an_error(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fcntl, "flock", no_locks)
    seen: list[int | None] = []
    with file_lock(path, on_unsupported=lambda error: seen.append(error.errno)):
        seen.append(0)
    assert seen == [errno.ENOLCK, 0]
    with pytest.raises(OSError, match="No locks available"), file_lock(path):
        pass


def test_a_folder_that_cannot_be_written_is_not_taken_for_one_without_locks(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(FileExistsError), file_lock(tmp_path / "file" / ".lock", on_unsupported=lambda error: None):
        pass
