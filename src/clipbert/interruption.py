"""What Ctrl-C leaves: the closing line of each verb, and the exit code."""

import os
import signal
from types import FrameType
from typing import NoReturn

CHANGED = (
    "the champion may or may not have changed: `clipbert history TASK` says so, and completes or undoes the change"
)
RESUMED = {
    "ingest": "the manifest is as it was; files that were probed are not probed again",
    "validate": "artifacts/validation is as it was",
    "frames": "the frame cache is as it was; videos that were decoded are not decoded again",
    "train": "the state of its last checkpoint is kept",
    "evaluate": "artifacts/metrics, artifacts/predictions and artifacts/reports of the task may be of two evaluations",
    "register": "the version may or may not be registered; the same model is never registered twice",
    "promote": CHANGED,
    "rollback": CHANGED,
    "convert": "nothing was written",
    "sample-data": "nothing was written",
    "import": "nothing was added to data/",
}


STARTING = b"clipbert: interrupted while starting; nothing was changed.\n"


def exit_on_interrupt() -> None:
    """End the process on Ctrl-C with a line and exit code 130, for as long as it has not begun its work.

    KeyboardInterrupt would end an import with a traceback. Where SIGINT is ignored, as below `nohup`, it stays so.
    """
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _exit_now)


def raise_on_interrupt() -> None:
    """Raise KeyboardInterrupt on Ctrl-C again, as Python does, from where a verb begins its work."""
    if signal.getsignal(signal.SIGINT) is _exit_now:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _exit_now(number: int, frame: FrameType | None) -> NoReturn:
    os.write(2, STARTING)
    os._exit(128 + signal.SIGINT)


class Interrupted(SystemExit):
    """The end of a verb that Ctrl-C stopped: exit code 130, as shells have it."""

    def __init__(self) -> None:
        super().__init__(128 + signal.SIGINT)


def closing_line(verb: str, arguments: list[str]) -> str:
    """Return what to print when Ctrl-C has stopped a verb: what is left of its work, and the command to run again."""
    task = next((word for word in arguments[1:] if word.isidentifier()), "TASK")
    left = RESUMED.get(verb, "").replace("TASK", task)
    again = f"rerun `clipbert {' '.join(arguments)}`" + (" to finish" if left else "")
    return f"clipbert: {verb or 'the command'} was interrupted{f': {left}' if left else ''}; {again}."
