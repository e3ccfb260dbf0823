"""Least-recently-used cache with a limit of bytes, and digests of files that are read again only after a change."""

import hashlib
import os
import threading
import time
from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clipbert.errors import ClipBertError
from clipbert.files.atomic import sha256_file

CACHE_MB = "CLIPBERT_CACHE_MB"
DEFAULT_CACHE_MB = 256
MOST_CACHE_MB = 2**20
MB = 10**6
# A file that changed this recently may change again without another time stamp (as in git's index of files).
RACY_NS = 2 * 10**9
MOST_DIGESTS = 10_000


class ByteCache:
    """Thread-safe mapping that drops the entries used least recently when they exceed a number of bytes.

    An entry that is larger than the whole cache is not kept.

    Attributes:
        max_bytes: limit; 0 keeps nothing.
        bytes: of the entries now.
    """

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.bytes = 0
        self._entries: OrderedDict[Hashable, tuple[Any, int]] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: Hashable) -> Any:
        """Return the value of a key; None if there is none."""
        with self._lock:
            if key not in self._entries:
                return None
            self._entries.move_to_end(key)
            return self._entries[key][0]

    def put(self, key: Hashable, value: Any, size: int) -> None:
        """Keep a value of `size` bytes."""
        with self._lock:
            if key in self._entries:
                self.bytes -= self._entries.pop(key)[1]
            if size > self.max_bytes:
                return
            self._entries[key] = (value, size)
            self.bytes += size
            while self.bytes > self.max_bytes:
                self.bytes -= self._entries.popitem(last=False)[1][1]

    def clear(self) -> None:
        """Drop all entries."""
        with self._lock:
            self._entries.clear()
            self.bytes = 0


@dataclass(frozen=True)
class FileState:
    """Content of a file at a moment.

    Attributes:
        digest: SHA-256 of the content.
        stamp: device, inode, size and times of the file.
        settled: whether the file had not changed for a while, so that a later change has other times.
    """

    digest: str
    stamp: tuple[int, ...]
    settled: bool


class FileDigests:
    """Digests of files; a file is read again if its inode, size or times have changed or are recent."""

    def __init__(self) -> None:
        self._known: OrderedDict[str, FileState] = OrderedDict()
        self._lock = threading.Lock()

    def state(self, path: Path) -> FileState:
        """Return the digest of a file and when it holds.

        Raises:
            OSError: the file cannot be read.
        """
        name = os.path.realpath(path)
        stamp = _stamp(path)
        with self._lock:
            known = self._known.get(name)
        if known is not None and known.settled and known.stamp == stamp:
            return known
        settled = time.time_ns() - max(stamp[-2:]) > RACY_NS
        state = FileState(sha256_file(path), stamp, settled)
        with self._lock:
            self._known[name] = state
            self._known.move_to_end(name)
            while len(self._known) > MOST_DIGESTS:
                self._known.popitem(last=False)
        return state

    def unchanged(self, path: Path, before: FileState) -> bool:
        """Return whether a file still has the content of `before`."""
        try:
            if before.settled:
                return _stamp(path) == before.stamp
            return sha256_file(path) == before.digest
        except OSError:
            return False


def _stamp(path: Path) -> tuple[int, ...]:
    found = path.stat()
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def bytes_digest(content: bytes) -> str:
    """Return the SHA-256 of some bytes, as `FileState.digest` has it for a file."""
    return hashlib.sha256(content).hexdigest()


def cache_limit() -> int:
    """Return the limit of a cache in bytes: CLIPBERT_CACHE_MB, or else 256 MB.

    Raises:
        ClipBertError: it is not a number from 0 to 1048576.
    """
    text = os.environ.get(CACHE_MB, str(DEFAULT_CACHE_MB))
    if not (text.isascii() and text.isdigit() and int(text[:8]) <= MOST_CACHE_MB and len(text) <= 8):
        raise ClipBertError(
            f"{CACHE_MB} is {text!r}: expected a number of MB from 0 (keep nothing) to {MOST_CACHE_MB}. Correct it or "
            "unset it."
        )
    return int(text) * MB
