"""Requests to stop a training: SIGTERM, Ctrl-C, or the end of the process that started it."""

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

from clipbert.console import console
from clipbert.errors import ClipBertError

SIGNALS = (signal.SIGTERM, signal.SIGINT)
SAME_REQUEST_S = 2.0


@dataclass
class StopRequest:
    """Request to stop, which the training checks between two steps.

    Attributes:
        parent: id of the process that started the training.
        bound: whether the training stops when that process ends.
        signal: number of the received signal; 0: none.
        at: monotonic time of the signal.
    """

    parent: int
    bound: bool
    signal: int = 0
    at: float = 0.0

    @property
    def wanted(self) -> bool:
        """Whether to save and stop."""
        return self.signal != 0 or self.orphaned

    @property
    def orphaned(self) -> bool:
        """Whether DVC or the agent of torchrun is gone.

        Neither ends its children when it is killed; an orphan would run at the same time as the next training.
        """
        return self.bound and os.getppid() != self.parent

    def exception(self, task: str, step: int) -> BaseException:
        """Return the exception to raise after saving; the exit code is 143 for SIGTERM and 130 for Ctrl-C."""
        if self.signal == 0 and self.orphaned:
            return ClipBertError(
                f"train {task}: the process that started this training is gone; stopped at step {step} with its state "
                "saved. Run `dvc repro` (or `make run`) to resume."
            )
        console.print(f"train {task}: saved at step {step}; rerun to resume: `clipbert train {task}` or `dvc repro`.")
        return Stopped(self.signal or signal.SIGTERM)


class Stopped(SystemExit):
    """End of a training that was asked to stop and has saved its state."""

    def __init__(self, number: int) -> None:
        super().__init__(128 + number)


@contextmanager
def stop_requests() -> Iterator[StopRequest]:
    """Turn the first SIGTERM or Ctrl-C into a request to stop; a second one stops at once."""
    request = StopRequest(os.getppid(), "DVC_STAGE" in os.environ or "TORCHELASTIC_RUN_ID" in os.environ)

    def handle(number: int, frame: FrameType | None) -> None:
        if request.signal:
            # torchrun forwards a Ctrl-C that the terminal has sent to this process as well
            if time.monotonic() - request.at > SAME_REQUEST_S:
                raise Stopped(number)
            return
        request.signal, request.at = number, time.monotonic()
        console.print(
            f"{signal.Signals(number).name}: the training saves its state and stops. Repeat the signal to stop at once."
        )

    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    before = {number: signal.signal(number, handle) for number in SIGNALS}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)
