"""Files on object stores and servers, by fsspec: s3://, gs://, az://, https://, sftp://."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

from clipbert.errors import ClipBertError


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
