"""Execution of one stage by DVC, with its outcome and its output."""

import re
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from clipbert.redact import redact
from flows.supervisor import Supervisor

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
    stage: str, supervisor: Supervisor, log: Callable[[str], None], time_limit_s: float | None = None
) -> StageResult:
    """Run one stage with `dvc repro --single-item`; pass each line of its output to `log`.

    Raises:
        StageError: it failed, took longer than `time_limit_s` seconds, or was stopped.
    """
    start = time.monotonic()
    command = [sys.executable, "-m", "dvc", "--wait-for-lock", "repro", "--single-item", stage]
    outcome: Outcome = "ran"
    tail: deque[str] = deque(maxlen=_TAIL_LINES)
    code: int | None = None
    late = threading.Event()
    process = supervisor.start(command)

    def out_of_time() -> None:
        late.set()
        process.stop()

    timer = threading.Timer(time_limit_s or 0.0, out_of_time)
    if time_limit_s is not None:
        timer.start()
    try:
        for line in process.lines():
            line = redact(line)
            if not line or line in _HINTS or line.startswith(_HINT_STARTS):
                continue
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
    finally:
        timer.cancel()
    if late.is_set():
        raise StageError(f"{stage}: stopped at its time limit of {time_limit_s:g} s.", retryable=False)
    if supervisor.closed:
        raise StageError(f"{stage}: stopped with the flow.", retryable=False)
    if dvc_code != 0:
        raise StageError(_describe(stage, code, list(tail)), retryable=code not in (None, USER_ERROR))
    return StageResult(stage, outcome, time.monotonic() - start)


def _describe(stage: str, code: int | None, tail: list[str]) -> str:
    """Return a failure as a message: how the stage ended, and its last lines of output."""
    how = "DVC could not run it" if code is None else f"exit code {code}"
    return f"{stage}: {how}\n" + "\n".join(tail) if tail else f"{stage}: {how}"
