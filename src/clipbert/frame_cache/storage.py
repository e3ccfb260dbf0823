"""Storage of a frame cache: a folder, read by position, or a URL, read by ranges."""

import json
import os
from pathlib import Path
from typing import IO, Any, Protocol

from clipbert.files.atomic import atomic_write
from clipbert.files.remote import SourceError, below, filesystem, is_url, remote_errors
from clipbert.frame_cache.index import INDEX_FILE, QUARANTINE_FILE
from clipbert.frame_cache.remote import digest

Ranges = list[tuple[int, int]]


class Shards(Protocol):
    """Interface to the files of one cache."""

    def index(self) -> Path:
        """Return the index as a local file."""

    def read(self, shard: str, ranges: Ranges) -> list[bytes]:
        """Return the bytes at each (offset, length) of a shard; fewer where it ends.

        Raises:
            FileNotFoundError: there is no such shard.
        """

    def quarantined(self) -> list[str]:
        """Return the media in its quarantine.jsonl."""

    def place(self, shard: str) -> str:
        """Return the name of a shard for messages."""


class LocalShards:
    """Cache in a folder; files are read by position, so threads and forked processes share nothing."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._files: dict[str, IO[bytes]] = {}

    def index(self) -> Path:
        return self.folder / INDEX_FILE

    def read(self, shard: str, ranges: Ranges) -> list[bytes]:
        file = self._files.get(shard)
        if file is None:
            file = self._files.setdefault(shard, (self.folder / shard).open("rb", buffering=0))
        return [os.pread(file.fileno(), length, offset) for offset, length in ranges]

    def quarantined(self) -> list[str]:
        path = self.folder / QUARANTINE_FILE
        return _media_in(path.read_bytes()) if path.is_file() else []

    def place(self, shard: str) -> str:
        return str(self.folder / shard)


class RemoteShards:
    """Published cache: the index is kept in the user's cache folder, shards are read by ranges."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._system: Any = None
        self._base = ""
        self._process = 0

    def _connect(self) -> tuple[Any, str]:
        # fsspec's connections belong to a thread, which a fork does not copy
        if self._process != os.getpid():
            self._system, base = filesystem(self.url)
            self._base, self._process = base.rstrip("/"), os.getpid()
        return self._system, self._base

    def index(self) -> Path:
        """Fetch the index, unless this user's last copy is current.

        Raises:
            ClipBertError: it is not there, or cannot be reached.
        """
        import platformdirs

        with remote_errors(f"{self.url}/{INDEX_FILE}"):
            system, base = self._connect()
            system.invalidate_cache()
            version = str(system.ukey(f"{base}/{INDEX_FILE}"))
            folder = platformdirs.user_cache_path("clipbert") / "index" / digest(self.url.encode())
            path = folder / f"{digest(version.encode())}.arrow"
            if not path.is_file():
                data = system.cat_file(f"{base}/{INDEX_FILE}")
                with atomic_write(path) as file:
                    file.write(data)
                for other in folder.glob("*.arrow"):
                    if other != path:
                        other.unlink(missing_ok=True)
        return path

    def read(self, shard: str, ranges: Ranges) -> list[bytes]:
        starts, ends = [start for start, _ in ranges], [start + length for start, length in ranges]
        try:
            with remote_errors(below(self.url, shard)):
                system, base = self._connect()
                return list(system.cat_ranges([f"{base}/{shard}"] * len(ranges), starts, ends, on_error="raise"))
        except SourceError as error:
            if isinstance(error.__cause__, FileNotFoundError):
                raise error.__cause__ from None
            raise

    def quarantined(self) -> list[str]:
        url = below(self.url, QUARANTINE_FILE)
        with remote_errors(url):
            system, base = self._connect()
            return _media_in(system.cat_file(f"{base}/{QUARANTINE_FILE}"))

    def place(self, shard: str) -> str:
        return below(self.url, shard)


def _media_in(quarantine: bytes) -> list[str]:
    return [json.loads(line)["media"] for line in quarantine.decode().splitlines()]


def open_storage(path: str) -> Shards:
    """Return the files of the cache at `path`, a folder or a URL."""
    return RemoteShards(path) if is_url(path) else LocalShards(Path(path))
