"""Console output: redacted text, and progress as a bar on a terminal or as lines in a log."""

import contextlib
import io
import os
import sys
import time
from collections.abc import Callable, Iterator
from typing import IO, Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from clipbert.redact import RedactedStream


class RedactedConsole(Console):
    """Rich console that hides passwords and tokens in everything it prints."""

    @property
    def file(self) -> IO[str]:
        """The output stream, redacted."""
        stream: Any = RedactedStream.wrap(Console.file.fget(self))  # type: ignore[attr-defined]
        return stream

    @file.setter
    def file(self, new_file: IO[str]) -> None:
        self._file = new_file


# Text is printed as it is: file names and messages contain brackets and colons.
console = RedactedConsole(highlight=False, soft_wrap=True, markup=False, emoji=False)
errors = RedactedConsole(stderr=True, highlight=False, soft_wrap=True, markup=False, emoji=False)

LOG_EVERY_S = 10.0

Advance = Callable[[int, str], None]


def use_utf8() -> None:
    """Use UTF-8 for file names in any locale, and escape characters that the terminal cannot show.

    If a forced ASCII locale (LC_ALL=C with PYTHONUTF8=0) made the interpreter read file names as ASCII, the command
    restarts itself in UTF-8 mode; its output keeps the encoding of the terminal.
    """
    if sys.getfilesystemencoding() != "utf-8" and not sys.flags.utf8_mode:
        encoding = sys.stdout.encoding if isinstance(sys.stdout, io.TextIOWrapper) else "ascii"
        environment = {"PYTHONIOENCODING": f"{encoding}:backslashreplace"} | os.environ | {"PYTHONUTF8": "1"}
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], environment)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


@contextlib.contextmanager
def progress(title: str | None, total: int, done: int = 0) -> Iterator[Advance]:
    """Show progress over `total` units.

    A terminal shows a live bar with the time left; a log gets a line at most every `LOG_EVERY_S` seconds and one at the
    end.

    Args:
        title: the name of the work; None shows nothing.
        total: the number of units.
        done: the number of units that are already finished.

    Yields:
        `advance(units, note)`, which adds finished units and shows a note next to the bar.
    """
    if title is None:
        yield lambda units, note: None
        return
    if console.is_terminal:
        columns = (
            TextColumn("{task.description:<10}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}", markup=False),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=console) as bar:
            task = bar.add_task(title, total=total, completed=done, note="")
            yield lambda units, note: bar.update(task, advance=units, note=note)
        return

    start = last = time.monotonic()
    first, latest = done, ""

    def advance(units: int, note: str) -> None:
        nonlocal done, last, latest
        done, latest = done + units, note
        now = time.monotonic()
        if now - last >= LOG_EVERY_S and done < total:
            last = now
            left = (now - start) / max(done - first, 1) * (total - done)
            console.print(f"{title}: {done}/{total} {note} ({left:.0f} s left)")

    yield advance
    console.print(f"{title}: {done}/{total} {latest} ({time.monotonic() - start:.0f} s)")
