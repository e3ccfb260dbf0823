"""Python programs as forks of a server that has imported torch, MLflow and this package.

A test that kills, signals or observes a program needs it in a process of its own, but a new interpreter imports for
seconds before its first line. The fork server of multiprocessing imports once per test worker, and each program is a
fork of it with its own working directory, environment, output and process group.
"""

import atexit
import contextlib
import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from multiprocessing.context import ForkServerContext
from pathlib import Path

from clipbert.console import console, errors

PRELOADED = [
    "clipbert.cli.main",
    "clipbert.frame_cache.build",
    "clipbert.release.tracking",
    "clipbert.training.trainer",
    "mlflow.pyfunc",
    "pytest",
]


def fork_server() -> ForkServerContext:
    """Return the context of the server, of which a process has one."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    return context


class ForkedProgram:
    """A running program; the methods are those of `subprocess.Popen` with text output.

    Args:
        arguments: what follows `python`: a script, `-m MODULE` or `-c CODE`, and its arguments.
        environment: its environment; default: that of this process.
        merge: whether standard error goes where standard output goes.
    """

    def __init__(
        self,
        arguments: Sequence[str],
        environment: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        merge: bool = False,
    ) -> None:
        self.args = list(arguments)
        self._folder = tempfile.TemporaryDirectory()
        outputs = [Path(self._folder.name, name) for name in ("stdout", "stdout" if merge else "stderr")]
        for path in outputs:
            path.touch()
        self._stdout, self._stderr = outputs
        self._process = fork_server().Process(
            target=_run, args=(self.args, dict(environment or os.environ), os.fspath(cwd or Path.cwd()), outputs)
        )
        self._process.start()
        self.pid = int(self._process.pid or 0)

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        if self._process.exitcode is None:
            raise subprocess.TimeoutExpired(self.args, timeout or 0)
        return self._process.exitcode

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """Wait for the end, and return what it wrote."""
        self.wait(timeout)
        return self._stdout.read_text(errors="replace"), self._stderr.read_text(errors="replace")

    def wait_for_line(self, line: str | None = None, timeout: float = 120) -> str:
        """Return its first line of output as soon as it is there; with `line`, wait for that line."""
        deadline = time.monotonic() + timeout
        while True:
            *lines, _ = self._stdout.read_text(errors="replace").split("\n")
            if lines and line is None:
                return lines[0]
            if line in lines:
                return line
            if self.poll() is not None or time.monotonic() >= deadline:
                raise AssertionError(f"no output, exit code {self.poll()}: {self._stderr.read_text()}")
            time.sleep(0.01)

    def send_signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self._process.kill()


def run_program(
    *arguments: str, cwd: Path, environment: Mapping[str, str] | None = None, timeout: float = 280
) -> subprocess.CompletedProcess[str]:
    """Run a program to its end; see `ForkedProgram`."""
    program = ForkedProgram(arguments, environment, cwd)
    try:
        stdout, stderr = program.communicate(timeout)
    finally:
        program.kill()
    return subprocess.CompletedProcess(program.args, int(program.returncode or 0), stdout, stderr)


def _run(arguments: list[str], environment: dict[str, str], cwd: str, outputs: list[Path]) -> None:
    """Become the program; runs in the forked process."""
    os.setsid()
    written = [os.open(path, os.O_WRONLY | os.O_APPEND) for path in outputs]
    become(arguments, environment, cwd, [os.open(os.devnull, os.O_RDONLY), *written])


def become(arguments: list[str], environment: dict[str, str], cwd: str, files: list[int]) -> None:
    """Run a program in this process, with `files` as its standard input, output and error."""
    for number, file in enumerate(files):
        os.dup2(file, number)
        os.close(file)
    sys.stdin = open(0, closefd=False)  # noqa: SIM115 - as the interpreter does: new ones for the new files
    sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", buffering=1, errors="backslashreplace", closefd=False)  # noqa: SIM115
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    if "COLUMNS" in environment:  # which rich has read while it was imported
        console.width = errors.width = int(environment["COLUMNS"])
    try:
        if arguments[0] == "-m":
            sys.argv = arguments[1:]
            runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
        elif arguments[0] == "-c":
            sys.argv = ["-c", *arguments[2:]]
            exec(arguments[1], {"__name__": "__main__"})
        else:
            sys.argv = arguments
            runpy.run_path(arguments[0], run_name="__main__")
    finally:
        # A process of multiprocessing ends without these; coverage writes its file in one.
        atexit._run_exitfuncs()
        sys.stdout.flush()
