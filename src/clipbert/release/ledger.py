"""Append-only ledger of promotions and rollbacks: `mlflow/ledger.db` of the project.

The ledger is a separate SQLite file because MLflow commits each alias and each tag in its own transaction and may run
on a remote server. Triggers reject updates and deletions of rows, and each row holds a SHA-256 over itself and the
previous row. An append returns after the row was flushed to the disk.
"""

import contextlib
import hashlib
import json
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from clipbert.errors import ClipBertError
from clipbert.files.atomic import create_with_umask, write_errors
from clipbert.release.decisions import user_at_host, utc_now

LEDGER = Path("mlflow", "ledger.db")
VERSION = 1
LOCK_TIMEOUT_S = 30.0

# decided: a decision that moves no alias. intent: written before aliases are moved. completed, undone, abandoned: the
# end of the intent with the same id. observed: aliases that another program moved.
Kind = Literal["decided", "intent", "completed", "undone", "abandoned", "observed"]
ENDS: tuple[Kind, ...] = ("completed", "undone", "abandoned")

SCHEMA = """
CREATE TABLE entries (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    kind TEXT NOT NULL CHECK (kind IN ('decided', 'intent', 'completed', 'undone', 'abandoned', 'observed')),
    id TEXT NOT NULL,
    task TEXT NOT NULL,
    store TEXT NOT NULL,
    at TEXT NOT NULL,
    by TEXT NOT NULL,
    facts TEXT NOT NULL,
    sha256 TEXT NOT NULL
);
CREATE UNIQUE INDEX one_end ON entries (id) WHERE kind IN ('completed', 'undone', 'abandoned');
CREATE TRIGGER no_update BEFORE UPDATE ON entries BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END;
CREATE TRIGGER no_delete BEFORE DELETE ON entries BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END;
CREATE TRIGGER no_replace BEFORE INSERT ON entries WHEN EXISTS (SELECT 1 FROM entries WHERE seq = NEW.seq)
    BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END;
"""


@dataclass(frozen=True)
class Entry:
    """One row of the ledger."""

    seq: int
    kind: Kind
    id: str  # of the decision; an intent and its end share it
    task: str
    store: str  # of the registry, without passwords
    at: str
    by: str
    facts: dict[str, Any]


class Ledger:
    """The ledger of a project. The file is created by the first append."""

    def __init__(self, root: Path) -> None:
        self.path = root / LEDGER
        self._connection: sqlite3.Connection | None = None

    def __enter__(self) -> "Ledger":
        return self

    def __exit__(self, *_: object) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def append(self, kind: Kind, id: str, task: str, store: str, facts: dict[str, Any]) -> Entry:
        """Append a row and flush it to the disk.

        Raises:
            ClipBertError: the row could not be written; the ledger is unchanged.
        """
        at, by, text = utc_now(), user_at_host(), json.dumps(facts, sort_keys=True, ensure_ascii=False)
        with self._errors():
            connection = self._open(create=True)
            assert connection is not None
            connection.execute("BEGIN IMMEDIATE")
            try:
                last = connection.execute("SELECT sha256 FROM entries ORDER BY seq DESC LIMIT 1").fetchone()
                digest = _digest(last[0] if last else "", kind, id, task, store, at, by, text)
                row = (kind, id, task, store, at, by, text, digest)
                columns = "kind, id, task, store, at, by, facts, sha256"
                cursor = connection.execute(f"INSERT INTO entries ({columns}) VALUES (?, ?, ?, ?, ?, ?, ?, ?)", row)
                _commit(connection)
            except BaseException:
                if connection.in_transaction:
                    connection.rollback()
                raise
        return Entry(int(cursor.lastrowid or 0), kind, id, task, store, at, by, facts)

    def entries(self, task: str | None = None) -> list[Entry]:
        """Return the rows of a task (None: of all tasks), oldest first.

        Raises:
            ClipBertError: the file is damaged or cannot be read.
        """
        found: list[Entry] = []
        with self._errors():
            connection = self._open(create=False)
            if connection is None:
                return found
            digest = ""
            query = "SELECT seq, kind, id, task, store, at, by, facts, sha256 FROM entries ORDER BY seq"
            for seq, kind, id, row_task, store, at, by, text, recorded in connection.execute(query):
                digest = _digest(digest, kind, id, row_task, store, at, by, text)
                if digest != recorded:
                    raise ClipBertError(self._damaged(f"row {seq} does not match its SHA-256"))
                if task in (None, row_task):
                    found.append(Entry(seq, kind, id, row_task, store, at, by, json.loads(text)))
        return found

    def _open(self, create: bool) -> sqlite3.Connection | None:
        if self._connection is None:
            if not create and not self.path.exists():
                return None
            with write_errors(self.path):
                self.path.parent.mkdir(parents=True, exist_ok=True)
                create_with_umask(self.path)
            connection = sqlite3.connect(self.path, timeout=LOCK_TIMEOUT_S, isolation_level=None)
            try:
                _prepare(connection, self.path)
            except BaseException:
                connection.close()
                raise
            self._connection = connection
        return self._connection

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.OperationalError, OSError) as error:
            advice = "Make sure that the disk has free space and that the file and its folder are writable"
            raise ClipBertError(f"{self.path}: the promotion ledger cannot be used: {error}. {advice}.") from error
        except sqlite3.DatabaseError as error:
            raise ClipBertError(self._damaged(str(error))) from error

    def _damaged(self, reason: str) -> str:
        return (
            f"{self.path}: the promotion ledger is damaged ({reason}). Restore it from a backup. Without one, move it "
            "away: the next command starts a new ledger from the registry's aliases, and the tags promotion.* of the "
            "versions still name those that were rolled back."
        )


def _prepare(connection: sqlite3.Connection, path: Path) -> None:
    """Set durable writes, check the pages, and create the table in a new file."""
    # EXTRA is FULL, and also flushes the folder after the rollback journal was removed.
    connection.execute("PRAGMA synchronous = EXTRA")
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if version == 0:
        connection.execute("BEGIN IMMEDIATE")
        try:
            if (
                connection.execute("PRAGMA user_version").fetchone()[0] == 0
            ):  # another process may have created it meanwhile
                for statement in _statements():
                    connection.execute(statement)
                connection.execute(f"PRAGMA user_version = {VERSION}")
            _commit(connection)
        except BaseException:
            if connection.in_transaction:
                connection.rollback()
            raise
    elif version != VERSION:
        raise ClipBertError(
            f"{path}: the promotion ledger has format {version}, expected {VERSION}. Install a newer version of "
            "clipbert."
        )
    state = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
    if state != "ok":
        raise sqlite3.DatabaseError(state)


def _statements() -> list[str]:
    """Return the statements of SCHEMA; `executescript` would commit the open transaction."""
    found, text = [], ""
    for line in SCHEMA.strip().splitlines(keepends=True):
        text += line
        if sqlite3.complete_statement(text):
            found.append(text)
            text = ""
    return found


def _commit(connection: sqlite3.Connection) -> None:
    connection.execute("COMMIT")


def _digest(*parts: str) -> str:
    return hashlib.sha256(json.dumps(parts, ensure_ascii=False).encode()).hexdigest()
