"""Supervised commands: the whole process group ends on request, or when the process that started it ends in any way.

The command runs under a small supervisor process (this file, as a script) in a session of its own. When the pipe to
the supervisor's standard input closes, because `stop` was called or because the kernel closed it for a dead process,
the supervisor ends the command's process group: first with a signal, and after a grace period with SIGKILL.
"""

import argparse
import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO

HOST = "127.0.0.1"


def environment() -> dict[str, str]:
    """Return this process's environment for the project's commands.

    The virtual environment's programs come first in PATH, output is unbuffered, telemetry is off, and MLflow loads no
    pickles.
    """
    programs = str(Path(sys.executable).parent)
    return os.environ | {
        "PATH": f"{programs}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
        "PYTHONUNBUFFERED": "1",
        "DVC_NO_ANALYTICS": "1",
        "DO_NOT_TRACK": "true",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "GX_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
    }


class SupervisorStopped(Exception):
    """The supervisor was stopped and starts no more commands."""


class SupervisedProcess:
    """Running command, created by `Supervisor.start`."""

    def __init__(self, popen: "subprocess.Popen[bytes]") -> None:
        self._popen = popen
        self._lock = threading.Lock()

    def lines(self) -> Iterator[str]:
        """Yield the lines that the command writes to stdout and stderr, without line ends."""
        assert self._popen.stdout is not None
        for line in self._popen.stdout:
            yield line.decode(errors="replace").rstrip()

    def poll(self) -> int | None:
        """Return the exit code as a shell reports it (128 + N for signal N); None while the command runs."""
        return self._popen.poll()

    def wait(self) -> int:
        """Wait until the command's process group has ended; return the exit code as a shell reports it."""
        code = self._popen.wait()
        self.stop()
        return code

    def stop(self) -> None:
        """Request the end of the command's process group; use `wait` to wait for it."""
        assert self._popen.stdin is not None
        with self._lock, contextlib.suppress(BrokenPipeError):
            self._popen.stdin.close()


class Supervisor:
    """Context manager that starts commands and ends them with their process groups at its exit.

    Args:
        cwd: the folder in which the commands run.
        grace_s: seconds between the first signal and SIGKILL.
    """

    def __init__(self, cwd: Path, grace_s: float = 10.0) -> None:
        self._cwd = cwd
        self._grace_s = grace_s
        self._lock = threading.Lock()
        self._started: list[SupervisedProcess] = []
        self._closed = False

    def start(
        self,
        command: Sequence[str],
        env: Mapping[str, str] | None = None,
        ending: signal.Signals = signal.SIGTERM,
        output: IO[bytes] | None = None,
    ) -> SupervisedProcess:
        """Start a command.

        Args:
            command: the program and its arguments.
            env: its environment; None: that of `environment`.
            ending: the signal that requests its end.
            output: a file for its output; None: `SupervisedProcess.lines` yields it.

        Raises:
            SupervisorStopped: `stop` was called or the context has ended.
        """
        supervised = [sys.executable, "-I", __file__, "--ending", ending.name, "--grace", str(self._grace_s), "--"]
        with self._lock:
            if self._closed:
                raise SupervisorStopped
            process = SupervisedProcess(
                subprocess.Popen(
                    [*supervised, *command],
                    cwd=self._cwd,
                    env=environment() if env is None else env,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE if output is None else output,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
            )
            self._started.append(process)
        return process

    @property
    def closed(self) -> bool:
        """Whether `stop` was called or the context has ended."""
        return self._closed

    def stop(self) -> None:
        """End all commands, wait for them, and start no more."""
        with self._lock:
            self._closed = True
        for process in self._started:
            process.stop()
        for process in self._started:
            process.wait()

    def __enter__(self) -> "Supervisor":
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def _group_lives(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def _end_group(group: int, ending: signal.Signals, grace_s: float) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, ending)
    deadline = time.monotonic() + grace_s
    while _group_lives(group) and time.monotonic() < deadline:
        time.sleep(0.05)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, signal.SIGKILL)


def _adopt_orphans() -> None:
    """Make this process the parent of descendants whose parent ends, in any session (child subreaper)."""
    pr_set_child_subreaper = 36
    ctypes.CDLL(None, use_errno=True).prctl(pr_set_child_subreaper, 1, 0, 0, 0)


def _children() -> list[int]:
    """Return the child processes of this process, after removing ended ones from the process table."""
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            if parent == os.getpid():
                found.append(int(folder.name))
    return found


def _end_orphans(grace_s: float) -> None:
    """End processes that the command left in other sessions, such as the flow runs of a killed worker."""
    deadline = time.monotonic() + grace_s
    asked: set[int] = set()
    while children := _children():
        for child in children:
            late = time.monotonic() > deadline
            if late or child not in asked:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(child, signal.SIGKILL if late else signal.SIGTERM)
                asked.add(child)
        time.sleep(0.05)


def _supervise() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--ending", default="SIGTERM")
    parser.add_argument("--grace", type=float, default=10.0)
    parser.add_argument("command", nargs="+")
    options = parser.parse_args()
    ending = signal.Signals[options.ending]
    _adopt_orphans()
    child = subprocess.Popen(options.command, stdin=subprocess.DEVNULL, start_new_session=True)

    def end_with_parent() -> None:
        os.read(sys.stdin.fileno(), 1)
        _end_group(child.pid, ending, options.grace)

    threading.Thread(target=end_with_parent, daemon=True).start()
    code = child.wait()
    _end_group(child.pid, ending, options.grace)
    _end_orphans(options.grace)
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    sys.exit(_supervise())
