"""What Ctrl-C leaves: the closing line of each verb, and the exit code."""

import signal

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
