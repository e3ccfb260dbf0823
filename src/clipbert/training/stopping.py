"""When a training has to stop: SIGTERM, Ctrl-C, or the end of what started it. It saves first."""

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
    """What a training looks at between two steps."""

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
        """DVC and torchrun's agent kill no child when they are killed: an orphan would train on beside the next one."""
        return self.bound and os.getppid() != self.parent

    def end(self, task: str, step: int) -> BaseException:
        """What to raise once the state is saved: exit code 143 after SIGTERM, 130 after Ctrl-C, as shells have it."""
        if self.signal == 0 and self.orphaned:
            return ClipBertError(
                f"train {task}: the process that started this training is gone; stopped at step {step} with its state "
                "saved. Run `dvc repro` (or `make run`) to go on."
            )
        console.print(
            f"train {task}: saved at step {step}; rerun to resume: `clipbert train {task}` or `dvc repro`.",
            markup=False,
        )
        return Stopped(self.signal or signal.SIGTERM)


class Stopped(SystemExit):
    """A training that was asked to stop and has saved its state."""

    def __init__(self, number: int) -> None:
        super().__init__(128 + number)


@contextmanager
def stop_requests() -> Iterator[StopRequest]:
    """The first SIGTERM or Ctrl-C asks to stop, the second stops at once."""
    request = StopRequest(os.getppid(), "DVC_STAGE" in os.environ or "TORCHELASTIC_RUN_ID" in os.environ)

    def ask(number: int, frame: FrameType | None) -> None:
        if request.signal:
            # torchrun passes on a Ctrl-C that the terminal has sent here as well
            if time.monotonic() - request.at > SAME_REQUEST_S:
                raise Stopped(number)
            return
        request.signal, request.at = number, time.monotonic()
        console.print(
            f"{signal.Signals(number).name}: the training saves its state and stops. Once more: it stops at once.",
            markup=False,
        )

    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    before = {number: signal.signal(number, ask) for number in SIGNALS}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)
