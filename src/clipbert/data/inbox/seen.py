"""Memory of the inbox: since when a file is there, which of its lines were refused, which files of an address are done.

Without it nothing is lost: files are looked at again, and what data/ has already is recognized by its content.
"""

import hashlib
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from clipbert.data.inbox.source import Arrival
from clipbert.files.atomic import write_json


@dataclass
class Entry:
    """What is known about one file.

    Attributes:
        stamp: of the arrival; a changed file is a new one.
        since: when it was first seen, in seconds since 1970.
        refused: its lines that were refused; they are not refused again.
        finished: nothing of it is left to do.
    """

    stamp: str
    since: float
    refused: list[int] = field(default_factory=list)
    finished: bool = False


class Seen:
    """Entries of one inbox, by the names of its files."""

    def __init__(self, path: Path, source: str) -> None:
        self._path = path
        self._source = hashlib.sha256(source.encode()).hexdigest()[:16]  # an address may contain a password
        self._entries: dict[str, Entry] = {}
        try:
            stored = json.loads(path.read_text(encoding="utf-8"))
            if stored["source"] == self._source:
                self._entries = {name: Entry(**entry) for name, entry in stored["files"].items()}
        except (OSError, ValueError, TypeError, KeyError, AttributeError):
            self._entries = {}

    def entry(self, arrival: Arrival, now: float) -> Entry:
        """Return the entry of a file, a new one if the file is new or changed."""
        found = self._entries.get(arrival.name)
        if found is None or found.stamp != arrival.stamp:
            found = self._entries[arrival.name] = Entry(arrival.stamp, now)
        return found

    def forget(self, name: str) -> None:
        """Remove the entry of a file."""
        self._entries.pop(name, None)

    def keep_only(self, names: set[str]) -> None:
        """Remove the entries of files that are no longer there."""
        self._entries = {name: entry for name, entry in self._entries.items() if name in names}

    def entries(self) -> dict[str, Any]:
        """Return all entries as JSON holds them."""
        return {name: asdict(entry) for name, entry in sorted(self._entries.items())}

    def restore(self, entries: dict[str, Any]) -> None:
        """Take the entries that `entries` returned before a kill."""
        self._entries |= {name: Entry(**entry) for name, entry in entries.items()}

    def write(self) -> None:
        """Write the file atomically."""
        write_json(self._path, {"source": self._source, "files": self.entries()})
