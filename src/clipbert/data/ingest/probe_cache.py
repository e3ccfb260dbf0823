"""Cache of earlier probes, so that a run of ingest costs what changed.

A small SQLite database outside every stage's outputs; losing it costs time only. It identifies files by size and times,
as git and DVC do, and contents by SHA-256: a file that was moved, restored or copied is read, not decoded.
"""

import contextlib
import hashlib
import json
import os
import sqlite3
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from urllib.parse import quote

from clipbert.console import errors
from clipbert.data.ingest.probe import MediaInfo, Rejected
from clipbert.errors import ClipBertError
from clipbert.files.atomic import create_with_umask, write_errors
from clipbert.video.media_types import IMAGE_SUFFIXES

COMMIT_EVERY = 100
BUSY_S = 60
VERSION = 2  # of the tables; a file with another version is replaced
# Primary result codes of SQLite that speak of the circumstances, not of the file: any other means damage.
CIRCUMSTANCES = {
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_LOCKED,
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_PERM,
    sqlite3.SQLITE_AUTH,
    sqlite3.SQLITE_NOMEM,
}
SCHEMA = f"""
CREATE TABLE IF NOT EXISTS files (media TEXT PRIMARY KEY, stat TEXT NOT NULL, sha256 TEXT NOT NULL, seen INTEGER);
CREATE TABLE IF NOT EXISTS outcomes (
    sha256 TEXT NOT NULL, kind TEXT NOT NULL, settings TEXT NOT NULL, outcome TEXT NOT NULL, checksum TEXT NOT NULL,
    PRIMARY KEY (sha256, kind, settings)
);
PRAGMA user_version = {VERSION};
"""


class ProbeCache:
    """Outcomes of earlier probes with the same `settings`; timeouts and memory failures also depend on `failures`.

    A damaged file is replaced, with a message, as soon as the damage is found. Every outcome has a checksum, because
    SQLite does not detect a changed byte inside a value.

    Raises:
        ClipBertError: the file cannot be written.
    """

    def __init__(self, path: Path, settings: str, failures: str) -> None:
        self.path, self.settings, self.failures = path, settings, f"{settings} {failures}"
        self._pending = 0
        with write_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            create_with_umask(path)
        with self._guarded():
            self._database = _open(path)
            self._run = 1 + (self._database.execute("SELECT max(seen) FROM files").fetchone()[0] or 0)

    def find(self, data: Path, media: str) -> MediaInfo | Rejected | None:
        """Return the outcome of an unchanged file; None if it changed or was never probed with these settings."""
        found = None
        with self._guarded():
            row = self._database.execute("SELECT stat, sha256 FROM files WHERE media = ?", (media,)).fetchone()
            if row is not None and row[0] == file_stamp(data / media):
                found = look_up(self._database, row[1], media, self.settings, self.failures)
                if found is not None:
                    self._write("UPDATE files SET seen = ? WHERE media = ?", (self._run, media))
        return found

    def add(self, media: str, stamp: str, sha256: str, outcome: MediaInfo | Rejected) -> None:
        """Keep an outcome. `stamp`: `file_stamp` before the probe, so that a change during it is detected by the next
        run."""
        self._write("INSERT OR REPLACE INTO files VALUES (?, ?, ?, ?)", (media, stamp, sha256, self._run))
        bound_to_limits = isinstance(outcome, Rejected) and outcome.reason in ("timeout", "memory")
        settings = self.failures if bound_to_limits else self.settings
        text = json.dumps([type(outcome).__name__, asdict(outcome)])
        row = (sha256, kind_of(media), settings, text)
        self._write("INSERT OR REPLACE INTO outcomes VALUES (?, ?, ?, ?, ?)", (*row, _checksum(*row)))

    def forget(self, media: str) -> None:
        """Drop the outcome of a file, so that the next run probes it again."""
        with self._guarded():
            row = self._database.execute("SELECT sha256 FROM files WHERE media = ?", (media,)).fetchone()
            if row is not None:
                self._write("DELETE FROM outcomes WHERE sha256 = ?", row)
                self._write("DELETE FROM files WHERE media = ?", (media,))

    def close(self, complete: bool) -> None:
        """Write what is pending; after a `complete` run, drop the outcomes of files that were not met."""
        with self._guarded():
            if complete:
                self._database.execute("DELETE FROM files WHERE seen < ?", (self._run,))
            self._database.commit()
        self._database.close()

    def _write(self, statement: str, values: tuple[object, ...]) -> None:
        with self._guarded():
            self._database.execute(statement, values)
            self._pending += 1
            if self._pending >= COMMIT_EVERY:
                self._database.commit()
                self._pending = 0

    @contextlib.contextmanager
    def _guarded(self) -> Iterator[None]:
        """Discard the database and start a new one if it turns out to be damaged.

        Raises:
            ClipBertError: the disk is full, or the file cannot be written or is in use.
        """
        try:
            yield
        except sqlite3.Error as error:
            if _code(error) in CIRCUMSTANCES:
                raise ClipBertError(
                    f"{self.path}: cannot be used ({error}). Free some space, give the folder write permission, or end "
                    "the other `clipbert ingest`, and run the command again."
                ) from error
            self._start_over(str(error))

    def _start_over(self, reason: str) -> None:
        errors.print(f"{self.path}: damaged ({reason}); removed, and its files are probed again.")
        if hasattr(self, "_database"):
            self._database.close()
        for suffix in ("", "-journal", "-wal", "-shm"):
            self.path.with_name(self.path.name + suffix).unlink(missing_ok=True)
        create_with_umask(self.path)
        self._database, self._run, self._pending = _open(self.path), 1, 0


def look_up(
    database: sqlite3.Connection, sha256: str, media: str, settings: str, failures: str
) -> MediaInfo | Rejected | None:
    """Return the outcome for these bytes under any file name."""
    row = database.execute(
        "SELECT sha256, kind, settings, outcome, checksum FROM outcomes WHERE sha256 = ? AND kind = ? "
        "AND settings IN (?, ?)",
        (sha256, kind_of(media), settings, failures),
    ).fetchone()
    if row is None:
        return None
    if _checksum(*row[:4]) != row[4]:
        raise sqlite3.DatabaseError("an outcome does not match its checksum")
    kind, values = json.loads(row[3])
    return MediaInfo(**values) if kind == MediaInfo.__name__ else Rejected(**values)


def known_by_content(path: Path, sha256: str, media: str, settings: str, failures: str) -> MediaInfo | Rejected | None:
    """Call `look_up` on the database `path` from another process; None if it cannot be read at the moment."""
    with contextlib.suppress(sqlite3.Error), contextlib.closing(sqlite3.connect(path, timeout=BUSY_S)) as database:
        return look_up(database, sha256, media, settings, failures)
    return None


def kind_of(media: str) -> str:
    """Return the kind of a file by its name: images and videos are decoded differently."""
    return "image" if os.path.splitext(media)[1].lower() in IMAGE_SUFFIXES else "video"


def file_stamp(path: Path) -> str:
    """Return what changes with a file's content: size, times of modification and change, inode; empty without file."""
    try:
        found = path.stat()
    except OSError:
        return ""
    return f"{found.st_size} {found.st_mtime_ns} {found.st_ctime_ns} {found.st_ino}"


def find_damage(path: Path) -> str | None:
    """Check every row of the file at `path`; return what is wrong, None if nothing is or there is no file."""
    if not path.is_file():
        return None
    uri = f"file:{quote(str(path))}?mode=ro"
    try:
        with contextlib.closing(sqlite3.connect(uri, uri=True, timeout=BUSY_S)) as database:
            _check(database)
            for row in database.execute("SELECT sha256, kind, settings, outcome, checksum FROM outcomes"):
                if _checksum(*row[:4]) != row[4]:
                    return "an outcome does not match its checksum"
    except sqlite3.Error as error:
        return None if _code(error) in CIRCUMSTANCES else str(error)
    return None


def _open(path: Path) -> sqlite3.Connection:
    database = sqlite3.connect(path, timeout=BUSY_S)
    try:
        if database.execute("PRAGMA user_version").fetchone()[0] != VERSION:
            database.executescript("DROP TABLE IF EXISTS files; DROP TABLE IF EXISTS outcomes;")
        database.executescript(SCHEMA)
        _check(database)
    except sqlite3.Error:
        database.close()
        raise
    return database


def _check(database: sqlite3.Connection) -> None:
    (found,) = database.execute("PRAGMA quick_check(1)").fetchone()
    if found != "ok":
        raise sqlite3.DatabaseError(found)


def _checksum(*values: object) -> str:
    return hashlib.sha256(json.dumps(values, default=str).encode()).hexdigest()[:16]


def _code(error: sqlite3.Error) -> int | None:
    """Return SQLite's primary result code; None if the error is not SQLite's own."""
    code = getattr(error, "sqlite_errorcode", None)
    return None if code is None else code & 0xFF
