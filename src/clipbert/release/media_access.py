"""Access of a served model to media: files below allowed folders, and media inside a request."""

import base64
import binascii
import logging
import os
import stat
from dataclasses import dataclass
from pathlib import Path

from clipbert.errors import ClipBertError

logger = logging.getLogger(__name__)

ROOTS = "CLIPBERT_MEDIA_ROOTS"
MAX_UPLOAD = "CLIPBERT_MAX_UPLOAD_MB"
DEFAULT_ROOT = "data"
DEFAULT_UPLOAD_MB = 64.0
MAX_SHOWN_LENGTH = 80


@dataclass(frozen=True)
class MediaAccess:
    """Rules for the media that requests may name.

    A path is opened only if it lies below one of `roots` after all symbolic links are resolved. Error messages go to
    clients: they repeat what the client sent and reveal neither the server's folders nor whether a file outside the
    roots exists.

    Attributes:
        roots: folders, absolute and resolved.
        max_upload_mb: size limit of a file inside a request, in MB (10^6 bytes).
    """

    roots: tuple[Path, ...]
    max_upload_mb: float = DEFAULT_UPLOAD_MB

    @classmethod
    def from_environment(cls) -> "MediaAccess":
        """Read CLIPBERT_MEDIA_ROOTS, folders separated as in PATH, and CLIPBERT_MAX_UPLOAD_MB.

        Without CLIPBERT_MEDIA_ROOTS the only root is the folder `data` below the current folder, if it exists. An empty
        value allows no file.

        Raises:
            ClipBertError: CLIPBERT_MAX_UPLOAD_MB is not a number above 0, or a root is not an absolute path.
        """
        text = os.environ.get(ROOTS)
        if text is None:
            roots = [Path.cwd() / DEFAULT_ROOT] if Path(DEFAULT_ROOT).is_dir() else []
        else:
            roots = [Path(part) for part in text.split(os.pathsep) if part]
        for root in roots:
            if not root.is_absolute():
                raise ClipBertError(
                    f"{ROOTS} contains {str(root)!r}: expected absolute paths, separated by {os.pathsep!r}."
                )
            if not root.is_dir():
                logger.warning("%s: %s is not a folder: no file below it can be opened now.", ROOTS, root)
        limit = os.environ.get(MAX_UPLOAD, str(DEFAULT_UPLOAD_MB))
        try:
            megabytes = float(limit)
        except ValueError:
            megabytes = 0.0
        if not 0 < megabytes < float("inf"):
            raise ClipBertError(f"{MAX_UPLOAD} is {limit!r}: expected a number of megabytes above 0.")
        return cls(tuple(root.resolve() for root in roots), megabytes)

    def find(self, value: object) -> Path | bytes:
        """Return the resolved path of the file that a request names, or the content that the request contains.

        Args:
            value: a path, absolute or relative to a root or to the current folder; or a data URI with base64 content,
                `data:video/mp4;base64,AAAA...`.

        Raises:
            ClipBertError: the value is invalid, or the file is missing or not allowed.
        """
        if not isinstance(value, str) or not value.strip():
            raise ClipBertError(f"{quoted(value)} is not a path: expected the path of a file or a data: URI.")
        if value[:5].lower() == "data:":
            return self._decode(value)
        if "://" in value:
            raise ClipBertError(f"{quoted(value)} is a URL: expected a path or a data: URI. URLs are not fetched.")
        return self._locate(value)

    def _locate(self, value: str) -> Path:
        problem = "is outside the folders that this server may read"
        for folder in (*self.roots, Path.cwd()):
            try:
                path = (folder / value).resolve()
                if not any(path.is_relative_to(root) for root in self.roots):
                    continue
                mode = path.stat().st_mode
            except (OSError, ValueError, RuntimeError):  # missing, too long, a null character, a loop of links
                problem = "is not found"
                continue
            if stat.S_ISREG(mode):
                return path
            problem = "is a folder" if stat.S_ISDIR(mode) else "is not a regular file"
        raise ClipBertError(
            f"{quoted(value)} {problem}: expected a file below the server's media folders ({ROOTS}) or a data: URI."
        )

    def _decode(self, value: str) -> bytes:
        header, comma, content = value.partition(",")
        if not comma or not header.lower().endswith(";base64"):
            raise ClipBertError(
                f"{quoted(value)} is not a data URI with base64 content: expected data:;base64,CONTENT."
            )
        size = len(content) * 3 // 4
        if size > self.max_upload_mb * 1e6:
            raise ClipBertError(
                f"the data URI has {size / 1e6:.1f} MB: expected at most {self.max_upload_mb:g} MB, the server's "
                f"{MAX_UPLOAD}."
            )
        try:
            found = base64.b64decode(content, validate=True)
        except (binascii.Error, ValueError):
            raise ClipBertError(f"{quoted(value)}: the content of the data URI is not base64.") from None
        if not found:
            raise ClipBertError(f"{quoted(value)}: the data URI is empty: expected the content of a file.")
        return found


def quoted(value: object) -> str:
    """Return the repr of a value for a message, cut if it is long."""
    text = repr(value)
    return text if len(text) <= MAX_SHOWN_LENGTH else f"{text[:MAX_SHOWN_LENGTH]}..."
