"""Execution of one stage by DVC, with its outcome and its output."""

import contextlib
import re
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from clipbert.redact import redact
from flows.supervisor import SupervisedProcess, Supervisor, environment

Outcome = Literal["ran", "unchanged", "restored"]

USER_ERROR = 2
_TAIL_LINES = 5
# Hints that DVC prints for a user at a terminal.
_HINTS = {
    "Data and pipelines are up to date.",
    "To track the changes with git, run:",
    "To enable auto staging, run:",
    "Use `dvc push` to send your updates to remote storage.",
}
_HINT_STARTS = ("\tgit add ", "\tdvc config core.autostage")
_UNCHANGED = re.compile(r"^(Stage )?'.*' didn't change, skipping$")
_RESTORED = re.compile(r"^Stage '.*' is cached - skipping run, checking out outputs$")
_EXIT = re.compile(r"^ERROR: failed to reproduce .*, exited with (-?\d+)$")


@dataclass(frozen=True)
class StageResult:
    """Outcome of a stage: it ran, its dependencies were unchanged, or its outputs were restored from DVC's cache."""

    stage: str
    outcome: Outcome
    seconds: float


class StageError(Exception):
    """A stage did not finish; `retryable` is False if a retry cannot succeed."""

    def __init__(self, message: str, retryable: bool) -> None:
        super().__init__(message)
        self.retryable = retryable


def run_stage(
    stage: str,
    supervisor: Supervisor,
    log: Callable[[str], None],
    time_limit_s: float | None = None,
    variables: Mapping[str, str] | None = None,
) -> StageResult:
    """Run one stage with `dvc repro --single-item`; pass each line of its output to `log`.

    Args:
        variables: added to the environment of the stage.

    Raises:
        StageError: it failed, took longer than `time_limit_s` seconds, or was stopped.
    """
    start = time.monotonic()
    command = [sys.executable, "-m", "dvc", "--wait-for-lock", "repro", "--single-item", stage]
    outcome: Outcome = "ran"
    tail: deque[str] = deque(maxlen=_TAIL_LINES)
    code: int | None = None
    process = supervisor.start(command, environment() | dict(variables or {}))
    with _time_limit(process, time_limit_s) as late:
        for line in _shown_lines(process):
            log(line)
            if _UNCHANGED.match(line):
                outcome = "unchanged"
            elif _RESTORED.match(line):
                outcome = "restored"
            elif exited := _EXIT.match(line):
                code = int(exited[1])
            else:
                tail.append(line)
        dvc_code = process.wait()
    _check_not_stopped(stage, late, supervisor, time_limit_s)
    if dvc_code != 0:
        raise StageError(_describe(stage, code, list(tail)), retryable=code not in (None, USER_ERROR))
    return StageResult(stage, outcome, time.monotonic() - start)


def run_command(
    name: str,
    command: Sequence[str],
    supervisor: Supervisor,
    log: Callable[[str], None],
    time_limit_s: float | None = None,
    retryable: Callable[[int], bool] = lambda code: code != USER_ERROR,
) -> list[str]:
    """Run a command of the project and return its lines of output, each of which is passed to `log`.

    Args:
        name: for messages.
        retryable: whether another attempt may succeed after this exit code.

    Raises:
        StageError: it failed, took longer than `time_limit_s` seconds, or was stopped.
    """
    process = supervisor.start(command)
    lines = []
    with _time_limit(process, time_limit_s) as late:
        for line in _shown_lines(process):
            log(line)
            lines.append(line)
        code = process.wait()
    _check_not_stopped(name, late, supervisor, time_limit_s)
    if code != 0:
        raise StageError(_describe(name, code, lines[-2 * _TAIL_LINES :]), retryable(code))
    return lines


@contextlib.contextmanager
def _time_limit(process: SupervisedProcess, time_limit_s: float | None) -> Iterator[threading.Event]:
    """Stop the process after its time limit; the event that the block receives is then set."""
    late = threading.Event()

    def out_of_time() -> None:
        late.set()
        process.stop()

    timer = threading.Timer(time_limit_s or 0.0, out_of_time)
    if time_limit_s is not None:
        timer.start()
    try:
        yield late
    finally:
        timer.cancel()


def _shown_lines(process: SupervisedProcess) -> Iterator[str]:
    """Yield the lines of output without secrets and without DVC's hints."""
    for line in map(redact, process.lines()):
        if line and line not in _HINTS and not line.startswith(_HINT_STARTS):
            yield line


def _check_not_stopped(name: str, late: threading.Event, supervisor: Supervisor, time_limit_s: float | None) -> None:
    if late.is_set():
        raise StageError(f"{name}: stopped at its time limit of {time_limit_s:g} s.", retryable=False)
    if supervisor.closed:
        raise StageError(f"{name}: stopped with the flow.", retryable=False)


def _describe(stage: str, code: int | None, tail: list[str]) -> str:
    """Return a failure as a message: how the stage ended, and its last lines of output."""
    how = "DVC could not run it" if code is None else f"exit code {code}"
    return f"{stage}: {how}\n" + "\n".join(tail) if tail else f"{stage}: {how}"
