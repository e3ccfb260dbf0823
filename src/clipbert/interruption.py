"""Ctrl-C: the closing line of each command, and exit code 130."""

import os
import signal
from types import FrameType
from typing import NoReturn

CHANGED = (
    "the champion may or may not have changed: `clipbert history TASK` says so, and completes or undoes the change"
)
RESUMED = {
    "ingest": "the manifest is unchanged; probed files are not probed again",
    "validate": "artifacts/validation is unchanged",
    "inbox": "a batch is merged as a whole or not at all; the next `clipbert inbox` finishes it",
    "index": "what was committed stays in the index, and is not indexed again",
    "frames": "the frame cache is unchanged; decoded videos are not decoded again",
    "train": "the state of its last checkpoint is kept",
    "evaluate": "artifacts/metrics, artifacts/predictions and artifacts/reports of the task may mix two evaluations",
    "study": "finished trainings are kept, and the running one continues from its checkpoint",
    "register": "the version may or may not be registered; the same model is never registered twice",
    "backfill": "evaluated versions are kept",
    "promote": CHANGED,
    "rollback": CHANGED,
    "convert": "nothing was written",
    "serve": "requests that ran were answered",
    "app": "requests that ran were answered",
    "sample-data": "nothing was written",
    "import": "nothing was added to data/",
}

STARTING = b"clipbert: interrupted while starting; nothing was changed.\n"


def exit_on_interrupt() -> None:
    """Exit on Ctrl-C with one line and code 130 until the command starts its work.

    A KeyboardInterrupt would end an import with a traceback. If SIGINT is ignored, as under `nohup`, it stays ignored.
    """
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _exit_now)


def raise_on_interrupt() -> None:
    """Restore Python's KeyboardInterrupt on Ctrl-C when a command starts its work."""
    if signal.getsignal(signal.SIGINT) is _exit_now:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _exit_now(number: int, frame: FrameType | None) -> NoReturn:
    os.write(2, STARTING)
    os._exit(128 + signal.SIGINT)


class Interrupted(SystemExit):
    """Exit of a command that Ctrl-C stopped, with the shells' code 130."""

    def __init__(self) -> None:
        super().__init__(128 + signal.SIGINT)


def closing_line(verb: str, arguments: list[str]) -> str:
    """Return the message after Ctrl-C: the state that the command left, and the command to rerun."""
    task = next((word for word in arguments[1:] if word.isidentifier()), "TASK")
    left = RESUMED.get(verb, "").replace("TASK", task)
    again = f"rerun `clipbert {' '.join(arguments)}`" + (" to finish" if left else "")
    return f"clipbert: {verb or 'the command'} was interrupted{f': {left}' if left else ''}; {again}."
