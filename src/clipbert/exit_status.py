"""How the processes of one training come to the same end; nothing heavy is imported here."""

import os
from pathlib import Path

ENDED = "CLIPBERT_ENDED"  # names the file in which a process leaves the exit code with which all are to end


def started_by_torchrun() -> bool:
    """Whether this process is one of several that torchrun, or `clipbert train` in its stead, has started."""
    return "RANK" in os.environ and "WORLD_SIZE" in os.environ


def ended_before() -> bool:
    """Whether one of these processes has come to an end that no restart changes."""
    return ENDED in os.environ and Path(os.environ[ENDED]).exists()


def end_all(code: int) -> bool:
    """Leave the exit code for the process that started these ones; whether this is the first to do so.

    Without one, as under torchrun itself, always true.
    """
    if ENDED not in os.environ:
        return True
    try:
        with Path(os.environ[ENDED]).open("x") as file:
            file.write(str(code))
    except FileExistsError:
        return False
    return True
