"""What earlier runs of ingest found, so that a run costs what changed: a file that is the same is not probed again.

A small SQLite database outside every stage's outputs; losing it costs time and nothing else. It knows files by size and
times, as git and DVC do, and their contents by SHA-256: a file that was moved, restored or copied is read, not decoded.
"""

import contextlib
import json
import os
import sqlite3
from dataclasses import asdict
from pathlib import Path

from clipbert.data.media_types import IMAGE_SUFFIXES
from clipbert.data.probe import MediaInfo, Rejected
from clipbert.errors import ClipBertError

COMMIT_EVERY = 100
BUSY_S = 60
SCHEMA = """
CREATE TABLE IF NOT EXISTS files (media TEXT PRIMARY KEY, stat TEXT NOT NULL, sha256 TEXT NOT NULL, seen INTEGER);
CREATE TABLE IF NOT EXISTS outcomes (
    sha256 TEXT NOT NULL, kind TEXT NOT NULL, settings TEXT NOT NULL, outcome TEXT NOT NULL,
    PRIMARY KEY (sha256, kind, settings)
);
"""


class Remembered:
    """The outcomes of earlier probes made with the same `settings`; `failures`: the settings on which timeouts and
    memory failures depend as well.

    Raises:
        ClipBertError: the file cannot be written.
    """

    def __init__(self, path: Path, settings: str, failures: str) -> None:
        self.path, self.settings, self.failures = path, settings, f"{settings} {failures}"
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._database = _open(path)
        except sqlite3.DatabaseError:
            # not a database any more: what it knew can be found out again
            path.unlink(missing_ok=True)
            self._database = _open(path)
        except OSError as error:
            raise ClipBertError(f"{path}: cannot be opened ({error.strerror}).") from error
        self._run = 1 + (self._database.execute("SELECT max(seen) FROM files").fetchone()[0] or 0)
        self._pending = 0

    def find(self, data: Path, media: str) -> MediaInfo | Rejected | None:
        """What the unchanged file is; None when it changed or was never probed so."""
        row = self._database.execute("SELECT stat, sha256 FROM files WHERE media = ?", (media,)).fetchone()
        if row is None or row[0] != file_stamp(data / media):
            return None
        found = look_up(self._database, row[1], media, self.settings, self.failures)
        if found is not None:
            self._write("UPDATE files SET seen = ? WHERE media = ?", (self._run, media))
        return found

    def add(self, media: str, stamp: str, sha256: str, outcome: MediaInfo | Rejected) -> None:
        """Keep an outcome. `stamp`: `file_stamp` before the probe, so that a change meanwhile is seen next time."""
        self._write("INSERT OR REPLACE INTO files VALUES (?, ?, ?, ?)", (media, stamp, sha256, self._run))
        bound_to_limits = isinstance(outcome, Rejected) and outcome.reason in ("timeout", "memory")
        settings = self.failures if bound_to_limits else self.settings
        text = json.dumps([type(outcome).__name__, asdict(outcome)])
        row = (sha256, kind_of(media), settings, text)
        self._write("INSERT OR REPLACE INTO outcomes VALUES (?, ?, ?, ?)", row)

    def forget(self, media: str) -> None:
        """Probe this file again next time, whatever it was."""
        row = self._database.execute("SELECT sha256 FROM files WHERE media = ?", (media,)).fetchone()
        if row is not None:
            self._write("DELETE FROM outcomes WHERE sha256 = ?", row)
            self._write("DELETE FROM files WHERE media = ?", (media,))

    def close(self, complete: bool) -> None:
        """Write what is pending; after a `complete` run, files that were not met are forgotten."""
        if complete:
            self._database.execute("DELETE FROM files WHERE seen < ?", (self._run,))
        self._database.commit()
        self._database.close()

    def _write(self, statement: str, values: tuple[object, ...]) -> None:
        self._database.execute(statement, values)
        self._pending += 1
        if self._pending >= COMMIT_EVERY:
            self._database.commit()
            self._pending = 0


def look_up(
    database: sqlite3.Connection, sha256: str, media: str, settings: str, failures: str
) -> MediaInfo | Rejected | None:
    """The outcome for these bytes, whatever the file is called."""
    row = database.execute(
        "SELECT outcome FROM outcomes WHERE sha256 = ? AND kind = ? AND settings IN (?, ?)",
        (sha256, kind_of(media), settings, failures),
    ).fetchone()
    if row is None:
        return None
    kind, values = json.loads(row[0])
    return MediaInfo(**values) if kind == MediaInfo.__name__ else Rejected(**values)


def known_by_content(path: Path, sha256: str, media: str, settings: str, failures: str) -> MediaInfo | Rejected | None:
    """`look_up` in the database `path` from another process; None when it cannot be read just now."""
    with contextlib.suppress(sqlite3.Error), contextlib.closing(sqlite3.connect(path, timeout=BUSY_S)) as database:
        return look_up(database, sha256, media, settings, failures)
    return None


def kind_of(media: str) -> str:
    """Images are decoded otherwise than videos, and the name decides which a file is."""
    return "image" if os.path.splitext(media)[1].lower() in IMAGE_SUFFIXES else "video"


def file_stamp(path: Path) -> str:
    """What changes when a file's content does: size, times of modification and change, inode; empty for no file."""
    try:
        found = path.stat()
    except OSError:
        return ""
    return f"{found.st_size} {found.st_mtime_ns} {found.st_ctime_ns} {found.st_ino}"


def _open(path: Path) -> sqlite3.Connection:
    database = sqlite3.connect(path, timeout=BUSY_S)
    try:
        database.executescript(SCHEMA)
    except sqlite3.DatabaseError:
        database.close()
        raise
    return database
