"""Limits of what an importer holds in memory: a line, a JSON item, a packed file."""

import io
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from clipbert.errors import ClipBertError

MAX_LINE_CHARS = 16 * 2**20
MAX_ITEM_BYTES = 16 * 2**20
MAX_DEPTH = 64
MAX_WHOLE_BYTES = 64 * 2**20
MAX_HELD_CHARS = 256 * 2**20
MAX_PACKED_RATIO = 200  # text packs 3 to 20 times
FREE_UNPACKED_BYTES = 64 * 2**20  # below this size the ratio is not checked


def mebibytes(size: int) -> str:
    """Return a size as it is written in messages."""
    return f"{size / 2**20:g} MiB"


def limited_lines(path: Path, stream: IO[str], first_number: int = 1) -> Iterator[str]:
    """Yield the lines of a text stream with their ends.

    Raises:
        ClipBertError: a line is longer than MAX_LINE_CHARS; no more of it is read.
    """
    number = first_number
    while line := stream.readline(MAX_LINE_CHARS + 1):
        if len(line) > MAX_LINE_CHARS:
            raise line_error(path, f"line {number}")
        yield line
        number += 1


def line_error(path: Path, place: str) -> ClipBertError:
    """Return the error of a line or row that is too long."""
    return ClipBertError(
        f"{path}: {place}: longer than {mebibytes(MAX_LINE_CHARS)}, the limit of a line; expected one record a line. "
        "If the file is one JSON list, give its name the suffix .json."
    )


def item_error(path: Path, number: int, what: str) -> ClipBertError:
    """Return the error of a JSON item that is too large."""
    return ClipBertError(f"{path}: item {number}: {what}; expected a list of records, each far smaller.")


class HeldTexts:
    """Counter of the text of one file that an importer must hold until it has read another file or the whole of this
    one.

    The largest official file, the training questions of VQA 2.0, holds 20 MiB.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._chars = 0

    def hold(self, text: str) -> str:
        """Return `text`.

        Raises:
            ClipBertError: together with what was held before it is longer than MAX_HELD_CHARS.
        """
        self._chars += len(text) + 64  # an entry of a dictionary takes some memory as well
        if self._chars > MAX_HELD_CHARS:
            raise ClipBertError(
                f"{self._path}: more than {mebibytes(MAX_HELD_CHARS)} of texts that must be held together, the limit; "
                "the official file is far smaller. Split it, or import it with `clipbert import table`."
            )
        return text


class UnpackedStream(io.RawIOBase):
    """Unpacked bytes of a zip member or a gzip file, rejected when they are far more than the packed ones.

    Args:
        packed: reads the unpacked bytes.
        packed_bytes: size of the packed file.
        path: named in the error.
    """

    def __init__(self, packed: IO[bytes], packed_bytes: int, path: Path) -> None:
        self._packed, self._path = packed, path
        self._limit = max(FREE_UNPACKED_BYTES, MAX_PACKED_RATIO * packed_bytes)
        self._read = 0

    def readable(self) -> bool:
        """Return True."""
        return True

    def readinto(self, buffer: object) -> int:
        """Fill a buffer with unpacked bytes.

        Raises:
            ClipBertError: they are more than the limit.
        """
        view = memoryview(buffer)  # type: ignore[arg-type]
        data = self._packed.read(len(view))
        self._read += len(data)
        if self._read > self._limit:
            raise ClipBertError(
                f"{self._path}: unpacks to more than {mebibytes(self._limit)}, over {MAX_PACKED_RATIO} times its size: "
                "annotations do not compress this well (a zip bomb?). If the file is correct, unpack "
                "it and import the unpacked file."
            )
        view[: len(data)] = data
        return len(data)
