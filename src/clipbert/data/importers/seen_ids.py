"""Ids seen by an import, on disk: ten million of them would take a gigabyte as a Python set."""

import sqlite3

CACHE_KIB = 64 * 1024


class SeenIds:
    """Set of (kind, id) in a temporary SQLite database, with at most 64 MiB in memory.

    SQLite deletes the file when it opens it, so nothing is left after a kill.
    """

    def __init__(self) -> None:
        self._database = sqlite3.connect("", isolation_level=None)
        for pragma in ("journal_mode = OFF", "synchronous = OFF", f"cache_size = -{CACHE_KIB}"):
            self._database.execute(f"PRAGMA {pragma}")
        self._database.execute("CREATE TABLE seen (kind TEXT, id BLOB, PRIMARY KEY (kind, id)) WITHOUT ROWID")
        self._database.execute("BEGIN")

    def add(self, kind: str, identity: str) -> bool:
        """Add an id; return whether it is new among those of its kind."""
        # Bytes, because an id may hold half of a surrogate pair, which SQLite's text cannot.
        row = (kind, identity.encode("utf-8", "surrogatepass"))
        return self._database.execute("INSERT OR IGNORE INTO seen VALUES (?, ?)", row).rowcount == 1
