"""Common exit code of the processes of one training; imports only the standard library."""

import os
from pathlib import Path

EXIT_FILE = "CLIPBERT_EXIT_FILE"  # environment variable: path of the file that holds the common exit code


def started_by_torchrun() -> bool:
    """Return whether torchrun, or `clipbert train` in its place, started this process as one of several."""
    return "RANK" in os.environ and "WORLD_SIZE" in os.environ


def exit_code_written() -> bool:
    """Return whether one of the processes has ended in a way that a restart would not change."""
    return EXIT_FILE in os.environ and Path(os.environ[EXIT_FILE]).exists()


def write_exit_code(code: int) -> bool:
    """Write the common exit code for the process that started this one; return whether it is the first to do so.

    Without an exit file, as under torchrun itself, the result is always True.
    """
    if EXIT_FILE not in os.environ:
        return True
    try:
        with Path(os.environ[EXIT_FILE]).open("x") as file:
            file.write(str(code))
    except FileExistsError:
        return False
    return True
