"""Files on object stores and servers, fetched and published with fsspec: s3://, gs://, az://, https://, sftp://."""

import contextlib
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

from clipbert.errors import ClipBertError
from clipbert.files.leftovers import scratch_folder
from clipbert.frame_cache.index import INDEX_FILE, Index

UNFINISHED = ".unfinished"


class SourceError(ClipBertError):
    """Error for a file that is missing, unreachable, or changed since the manifest; such a file is not left out."""


def is_url(path: str) -> bool:
    """Return whether a path is a URL, such as s3://bucket/key."""
    return "://" in path


def below(url: str, name: str) -> str:
    """Return the URL of `name` below `url`."""
    escaped = quote(name) if url.startswith(("http://", "https://")) else name
    return f"{url.rstrip('/')}/{escaped}"


def filesystem(url: str) -> tuple[Any, str]:
    """Return the fsspec file system of a URL, and the path in it.

    Raises:
        SourceError: the protocol is unknown, or its package is not installed.
    """
    import fsspec

    try:
        return fsspec.core.url_to_fs(url)
    except (ImportError, ValueError) as error:
        raise SourceError(
            f"{url}: {error}. For s3:// install s3fs, for gs:// gcsfs, for az:// adlfs; fsspec lists the others."
        ) from error


@contextlib.contextmanager
def remote_errors(url: str) -> Iterator[None]:
    """Raise a message that names the URL for whatever a file system raises.

    Raises:
        SourceError: always when the block raises, unless that is a `ClipBertError` already.
    """
    try:
        yield
    except ClipBertError:
        raise
    except FileNotFoundError as error:
        raise SourceError(f"{url}: no such file there.") from error
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise SourceError(
            f"{url}: cannot be reached ({type(error).__name__}: {reason}). Check the address, the network and the "
            "credentials (docs/how-to/cluster.md), then run again."
        ) from error


def fetch(url: str, target: Path) -> None:
    """Copy a remote file to `target`.

    Raises:
        ClipBertError: it is not there, or cannot be reached.
    """
    with remote_errors(url):
        system, path = filesystem(url)
        system.get_file(path, str(target))


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
