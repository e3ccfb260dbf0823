"""Publication of the frame cache on object stores and servers."""

import hashlib
from pathlib import Path
from typing import Any

from clipbert.errors import ClipBertError
from clipbert.files.leftovers import scratch_folder
from clipbert.files.remote import filesystem, remote_errors
from clipbert.frame_cache.index import INDEX_FILE, Index

UNFINISHED = ".unfinished"


def publish(folder: Path, url: str) -> int:
    """Update the frame cache at `url` to the one in `folder`; return the number of shards sent.

    A shard's name is its checksum, so what is there already stays. The index comes last: until then readers see the
    old cache whole. Shards of the cache that is replaced are kept until the next publication, for readers at work.

    Raises:
        ClipBertError: the store cannot be reached or written; what it holds is then still whole.
    """
    with remote_errors(url):
        system, base = filesystem(url)
        base = base.rstrip("/")
        index = (folder / INDEX_FILE).read_bytes()
        wanted = {entry.shard for entry in Index(folder / INDEX_FILE)}
        present = _listing(system, base)
        before: set[str] = set()
        if INDEX_FILE in present:
            found = system.cat_file(f"{base}/{INDEX_FILE}")
            if found == index and all(present.get(name) == (folder / name).stat().st_size for name in wanted):
                return 0
            before = _shards_in(found)
        system.makedirs(base, exist_ok=True)
        sent = 0
        for name in sorted(wanted):
            if present.get(name) != (folder / name).stat().st_size:
                system.put_file(str(folder / name), f"{base}/{name}")
                sent += 1
        for name in sorted(path.name for path in folder.glob("*.jsonl")):
            system.put_file(str(folder / name), f"{base}/{name}")
        system.pipe_file(f"{base}/{INDEX_FILE}{UNFINISHED}", index)
        system.mv(f"{base}/{INDEX_FILE}{UNFINISHED}", f"{base}/{INDEX_FILE}")
        for name in present:
            if name.startswith("shard-") and name not in wanted | before:
                system.rm_file(f"{base}/{name}")
    return sent


def _listing(system: Any, base: str) -> dict[str, int]:
    """Return name and size of the files in a remote folder."""
    system.invalidate_cache()
    try:
        found = system.ls(base, detail=True)
    except FileNotFoundError:
        return {}
    return {str(file["name"]).rstrip("/").rsplit("/", 1)[-1]: int(file["size"] or 0) for file in found}


def _shards_in(index: bytes) -> set[str]:
    """Return the shards of an index; none if it is damaged or of another version."""
    with scratch_folder() as folder:
        path = folder / INDEX_FILE
        path.write_bytes(index)
        try:
            return {entry.shard for entry in Index(path)}
        except ClipBertError:
            return set()


def digest(data: bytes) -> str:
    """Return a short name for a URL or a version."""
    return hashlib.sha256(data).hexdigest()[:16]
