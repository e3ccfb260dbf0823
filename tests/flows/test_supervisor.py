import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from flows.supervisor import Supervisor, SupervisorStopped

pytestmark = pytest.mark.slow

# A command with a child of its own; says both process ids.
FAMILY = """
import os, subprocess, time
child = subprocess.Popen(["sleep", "1000"])
print(os.getpid(), child.pid, flush=True)
time.sleep(1000)
"""
DEAF = """
import os, signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print(os.getpid(), flush=True)
time.sleep(1000)
"""


def alive(pid: int) -> bool:
    """Whether a process is there and no zombie."""
    try:
        return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


def assert_gone(*pids: int) -> None:
    deadline = time.monotonic() + 10
    while any(map(alive, pids)):
        assert time.monotonic() < deadline, f"{pids} still run"
        time.sleep(0.05)


def test_lines_come_as_they_are_written(tmp_path: Path) -> None:
    program = "import time;print('one');time.sleep(2);print('two')"
    with Supervisor(tmp_path) as supervisor:
        process = supervisor.start([sys.executable, "-c", program])
        arrived = {line: time.monotonic() for line in process.lines()}
        assert process.wait() == 0
    assert arrived["two"] - arrived["one"] > 1.5


def test_output_and_errors_both_come_and_bytes_that_are_no_text_do_not_stop_them(tmp_path: Path) -> None:
    program = "import sys;sys.stderr.write('wrong\\n');sys.stderr.flush();sys.stdout.buffer.write(b'\\xff ok\\n')"
    with Supervisor(tmp_path) as supervisor:
        assert list(supervisor.start([sys.executable, "-c", program]).lines()) == ["wrong", "\ufffd ok"]


@pytest.mark.parametrize(("ending", "code"), [("raise SystemExit(3)", 3), ("os.kill(os.getpid(), 9)", 137)])
def test_the_exit_code_is_a_shells(tmp_path: Path, ending: str, code: int) -> None:
    with Supervisor(tmp_path) as supervisor:
        assert supervisor.start([sys.executable, "-c", f"import os;{ending}"]).wait() == code


def test_stop_ends_the_whole_group(tmp_path: Path) -> None:
    with Supervisor(tmp_path) as supervisor:
        process = supervisor.start([sys.executable, "-c", FAMILY])
        pids = [int(pid) for pid in next(process.lines()).split()]
        process.stop()
        assert process.wait() == 128 + signal.SIGTERM
    assert_gone(*pids)


def test_who_does_not_hear_the_signal_is_killed_after_the_grace_period(tmp_path: Path) -> None:
    with Supervisor(tmp_path, grace_s=0.5) as supervisor:
        pid = int(next(supervisor.start([sys.executable, "-c", DEAF]).lines()))
    assert_gone(pid)


def test_what_a_command_leaves_behind_ends_with_it(tmp_path: Path) -> None:
    with Supervisor(tmp_path, grace_s=0.5) as supervisor:
        process = supervisor.start([sys.executable, "-c", FAMILY.replace("time.sleep(1000)", "")])
        _, child = (int(pid) for pid in next(process.lines()).split())
        assert process.wait() == 0
    assert_gone(child)


def test_what_a_killed_command_left_in_another_session_ends_too(tmp_path: Path) -> None:
    detached = FAMILY.replace('"1000"]', '"1000"], start_new_session=True').replace(
        "time.sleep(1000)", "os.kill(os.getpid(), 9)"
    )
    with Supervisor(tmp_path, grace_s=0.5) as supervisor:
        process = supervisor.start([sys.executable, "-c", detached])
        _, child = (int(pid) for pid in next(process.lines()).split())
        assert process.wait() == 137
        assert not alive(child)


def test_nothing_starts_after_the_end(tmp_path: Path) -> None:
    with Supervisor(tmp_path) as supervisor:
        pass
    with pytest.raises(SupervisorStopped):
        supervisor.start(["true"])


def test_a_killed_owner_leaves_nothing_running(tmp_path: Path) -> None:
    repository = Path(__file__).resolve().parents[2]
    program = (
        "import sys;from pathlib import Path;from flows.supervisor import Supervisor\n"
        f"for line in Supervisor(Path('.')).start([sys.executable, '-c', {FAMILY!r}]).lines(): print(line, flush=True)"
    )
    owner = subprocess.Popen([sys.executable, "-c", program], cwd=repository, stdout=subprocess.PIPE, text=True)
    assert owner.stdout is not None
    pids = [int(pid) for pid in owner.stdout.readline().split()]
    owner.kill()
    owner.wait()
    owner.stdout.close()
    assert_gone(*pids)
