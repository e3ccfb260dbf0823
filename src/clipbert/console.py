"""What long work shows: a progress bar on a terminal, plain lines in a log."""

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import IO, Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from clipbert.redact import RedactedStream


class RedactedConsole(Console):
    """A console that hides passwords and tokens in whatever it prints."""

    @property
    def file(self) -> IO[str]:
        """The stream behind it, redacted."""
        stream: Any = RedactedStream.over(Console.file.fget(self))  # type: ignore[attr-defined]
        return stream

    @file.setter
    def file(self, new_file: IO[str]) -> None:
        self._file = new_file


console = RedactedConsole(highlight=False, soft_wrap=True)
errors = RedactedConsole(stderr=True, highlight=False, soft_wrap=True)

LOG_EVERY_S = 10.0

Advance = Callable[[int, str], None]


@contextlib.contextmanager
def progress(title: str | None, total: int, done: int = 0) -> Iterator[Advance]:
    """Show progress over `total` units; yields `advance(units, note)`, the note standing beside the bar.

    On a terminal a live bar with the time left; elsewhere a line at most every ten seconds and one at the end.
    Without a title nothing is shown.
    """
    if title is None:
        yield lambda units, note: None
        return
    if console.is_terminal:
        columns = (
            TextColumn("{task.description:<10}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}"),
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
            console.print(f"{title}: {done}/{total} {note} ({left:.0f} s left)", markup=False)

    yield advance
    console.print(f"{title}: {done}/{total} {latest} ({time.monotonic() - start:.0f} s)", markup=False)
