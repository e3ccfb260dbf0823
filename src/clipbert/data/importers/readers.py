"""Readers of official annotation files as rows: streamed JSON, JSON lines, csv and tsv, also zipped or gzipped."""

import contextlib
import csv
import difflib
import fnmatch
import gzip
import io
import itertools
import json
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

from clipbert.data.annotations import MAX_SECONDS
from clipbert.data.importers.json_items import JsonItems, JsonSyntaxError, NoListError
from clipbert.data.importers.limits import (
    MAX_LINE_CHARS,
    MAX_WHOLE_BYTES,
    UnpackedStream,
    limited_lines,
    line_error,
    mebibytes,
)
from clipbert.errors import ClipBertError

SHOWN = 60
BUFFER = 1 << 16
DELIMITERS = ",\t;|"
SPLIT_WORDS = {
    "train": "train",
    "val": "val",
    "valid": "val",
    "validate": "val",
    "validation": "val",
    "dev": "val",
    "test": "test",
}


@dataclass(frozen=True, slots=True)
class Row:
    """Record of an official file, with its position and the expected layout."""

    file: Path
    place: str
    values: Mapping[str, Any]
    layout: str

    def error(self, what: str) -> ClipBertError:
        """Return the error for this record."""
        return ClipBertError(f"{self.file}: {self.place}: {what}; expected {self.layout}.")

    def value(self, key: str) -> Any:
        """Return the value of a key.

        Raises:
            ClipBertError: it has no such key.
        """
        try:
            return self.values[key]
        except KeyError:
            near = difflib.get_close_matches(key, list(self.values), n=1)
            hint = f" (did you mean {near[0]}?)" if near else ""
            raise self.error(f"no {key}{hint}, only {', '.join(map(str, self.values)) or 'nothing'}") from None

    def text(self, key: str) -> str:
        """Return a string; a number as its digits; null as the empty string.

        Raises:
            ClipBertError: the key is missing, or its value has another type.
        """
        value = self.value(key)
        if isinstance(value, str):
            return value
        if value is None:
            return ""
        if isinstance(value, int) and not isinstance(value, bool):
            return str(value)
        raise self.error(f"{key} is {shown(value)}, not a string")

    def integer(self, key: str) -> int:
        """Return a whole number, which may be written as a string.

        Raises:
            ClipBertError: the key is missing, or its value has another type.
        """
        value = self.value(key)
        with contextlib.suppress(ValueError):
            if isinstance(value, str):
                return int(value)
        if isinstance(value, int) and not isinstance(value, bool):
            return value
        raise self.error(f"{key} is {shown(value)}, not a whole number")

    def seconds(self, key: str) -> float:
        """Return a time in seconds, 0 or more, which may be written as a string.

        Raises:
            ClipBertError: the key is missing, or its value has another type.
        """
        value = self.value(key)
        with contextlib.suppress(ValueError, OverflowError):
            if isinstance(value, str | int | float) and not isinstance(value, bool) and 0 <= float(value) < MAX_SECONDS:
                return float(value)
        raise self.error(f"{key} is {shown(value)}, not a time in seconds from the start of the video")

    def strings(self, key: str) -> list[str]:
        """Return a list of strings.

        Raises:
            ClipBertError: the key is missing, or its value has another type.
        """
        value = self.value(key)
        if not isinstance(value, list) or not all(isinstance(entry, str) for entry in value):
            raise self.error(f"{key} is {shown(value)}, not a list of strings")
        return value

    def rows(self, key: str) -> list["Row"]:
        """Return a list of records inside this one.

        Raises:
            ClipBertError: the key is missing, or its value has another type.
        """
        value = self.value(key)
        if not isinstance(value, list) or not all(isinstance(entry, dict) for entry in value):
            raise self.error(f"{key} is {shown(value)}, not a list of objects")
        return [Row(self.file, f"{self.place}: {key}[{i}]", entry, self.layout) for i, entry in enumerate(value)]


def shown(value: Any) -> str:
    """Return a value as shortened JSON for messages."""
    text = json.dumps(value, ensure_ascii=True, default=str)
    return text if len(text) <= SHOWN else f"{text[: SHOWN - 3]}..."


def records(path: Path, layout: str, key: str | None = None) -> Iterator[Row]:
    """Stream the records of a file: .jsonl by line, .csv and .tsv by row, anything else as one JSON list.

    Args:
        layout: the expected layout, for error messages.
        key: the list lies under this key of a JSON object.

    Raises:
        ClipBertError: the file is missing, unreadable, not UTF-8, or not of its suffix's format; a record is not an
            object.
    """
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if {".jsonl", ".ndjson"} & set(suffixes):
        return json_lines(path, layout)
    if {".csv", ".tsv"} & set(suffixes):
        return table_rows(path, layout)
    return json_records(path, layout, key)


def load_json(path: Path, layout: str) -> Any:
    """Return the whole of a small JSON file, such as a vocabulary.

    Raises:
        ClipBertError: the file is missing, unreadable, not JSON, or larger than MAX_WHOLE_BYTES.
    """
    with opened(path) as stream:
        text = stream.read(MAX_WHOLE_BYTES + 1)
        if len(text) > MAX_WHOLE_BYTES:
            raise ClipBertError(f"{path}: larger than {mebibytes(MAX_WHOLE_BYTES)}, the limit here; expected {layout}.")
        try:
            return json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ClipBertError(f"{path}: not valid JSON ({error}); expected {layout}.") from None


def json_records(path: Path, layout: str, key: str | None = None) -> Iterator[Row]:
    """Stream the objects of a JSON list without holding the list; see `records`."""
    with _json_items(path, layout) as items:
        for value in items.items(key):
            if not isinstance(value, dict):
                raise ClipBertError(f"{path}: item {items.number}: {shown(value)} is not an object; expected {layout}.")
            yield Row(path, f"item {items.number}", value, layout)


def json_members(path: Path, layout: str) -> Iterator[tuple[str, Row]]:
    """Stream (key, value) of a JSON object of objects without holding it; see `records`."""
    with _json_items(path, layout) as items:
        for name, value in items.members():
            yield name, Row(path, name, value if isinstance(value, dict) else {}, layout)


@contextlib.contextmanager
def _json_items(path: Path, layout: str) -> Iterator[JsonItems]:
    with opened(path) as stream:
        items = JsonItems(stream, path)
        try:
            yield items
        except NoListError as error:
            raise ClipBertError(f"{path}: {error}; expected {layout}.") from None
        except JsonSyntaxError as error:
            raise ClipBertError(
                f"{path}: not valid JSON after item {items.number}: {error}; expected {layout}."
            ) from None


def json_lines(path: Path, layout: str) -> Iterator[Row]:
    """Stream the objects of a file with one JSON object per line; see `records`."""
    with opened(path) as stream:
        for number, line in enumerate(limited_lines(path, stream), start=1):
            if not line.strip():
                continue
            try:
                value = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise ClipBertError(
                    f"{path}: line {number}: not valid JSON ({error}); expected {layout} on one line."
                ) from None
            if not isinstance(value, dict):
                raise ClipBertError(f"{path}: line {number}: {shown(value)} is not an object; expected {layout}.")
            yield Row(path, f"line {number}", value, layout)


def table_rows(path: Path, layout: str, header: Sequence[str] | None = None) -> Iterator[Row]:
    """Stream the rows of a csv or tsv file with a header (or with `header`); quoted fields may hold line breaks.

    The delimiter is a tab in a .tsv file, else the most frequent of comma, tab, semicolon and bar in the header.
    """
    with opened(path) as stream:
        lines = limited_lines(path, stream)
        first = next((line for line in lines if line.strip()), "")
        if not first:
            raise ClipBertError(f"{path}: an empty file; expected {layout}.")
        delimiter = "\t" if ".tsv" in path.name.lower() else max(DELIMITERS, key=first.count)
        row = _RowLines(path, first, lines)
        reader = csv.reader(row, delimiter=delimiter, strict=True)
        line = 1
        try:
            columns = list(header or ())
            for cells in reader:
                row.chars = 0
                if not any(cell.strip() for cell in cells):
                    pass
                elif not columns:
                    columns = _header(path, cells, layout)
                elif len(cells) != len(columns):
                    raise ClipBertError(
                        f"{path}: line {line}: {len(cells)} columns, but {len(columns)} in the header "
                        f"({', '.join(columns)}); quote a field that holds {delimiter!r}."
                    )
                else:
                    yield Row(path, f"line {line}", dict(zip(columns, cells, strict=True)), layout)
                line = reader.line_num + 1
        except csv.Error as error:
            raise ClipBertError(f"{path}: line {line}: not a valid table ({error}); expected {layout}.") from None


def split_files(path: Path, patterns: Sequence[str], layout: str) -> dict[str, Path]:
    """Return {split: file} for one file or a folder; the split is read from the name (train, val, validation, dev,
    test).

    Args:
        patterns: shell patterns of file names in a folder, without regard to case.

    Raises:
        ClipBertError: no file is found, a name shows no split, or two files have the same split.
    """
    if path.is_dir():
        inside = sorted(entry for entry in path.iterdir() if entry.is_file())
        files = [entry for entry in inside if any(fnmatch.fnmatch(entry.name.lower(), p.lower()) for p in patterns)]
        files = [entry for entry in files if name_split(entry.name)]
        if not files:
            there = f" It holds {', '.join(entry.name for entry in inside[:5])}." if inside else ""
            raise ClipBertError(
                f"{path}: no file of train, val or test in it; expected names such as {', '.join(patterns)}.{there}"
            )
    elif path.is_file():
        files = [path]
    else:
        raise ClipBertError(f"{path}: no such file or folder; expected {layout}.")
    found: dict[str, Path] = {}
    for file in files:
        split = name_split(file.name)
        if split is None:
            raise ClipBertError(f"{file}: its name shows no split. Put train, val or test into the name.")
        if split in found:
            raise ClipBertError(f"{found[split]} and {file} are both {split}: name one of them, or remove the other.")
        found[split] = file
    return {split: found[split] for split in ("train", "val", "test") if split in found}


def name_split(name: str) -> str | None:
    """Return the split in a file's name: train for `MSRVTT_train.9k.csv`, val for `val_1.json`."""
    words = "".join(letter if letter.isalpha() else " " for letter in name.lower()).split()
    return next((SPLIT_WORDS[word] for word in words if word in SPLIT_WORDS), None)


@contextlib.contextmanager
def opened(path: Path) -> Iterator[IO[str]]:
    """Open a file as UTF-8 text without byte-order mark; gzip, and a zip with one file, are unpacked.

    Raises:
        ClipBertError: the file is missing, unreadable or not UTF-8.
    """
    try:
        with contextlib.ExitStack() as stack:
            binary = stack.enter_context(_binary(path))
            yield stack.enter_context(io.TextIOWrapper(binary, "utf-8-sig", newline=""))
    except FileNotFoundError:
        raise ClipBertError(f"{path}: no such file.") from None
    except UnicodeDecodeError as error:
        byte = error.object[error.start]
        raise ClipBertError(f"{path}: not UTF-8 (byte 0x{byte:02x}); save the file as UTF-8.") from None
    except (OSError, EOFError, zipfile.BadZipFile, zlib.error, NotImplementedError) as error:
        raise ClipBertError(f"{path}: cannot be read ({error}).") from error


@contextlib.contextmanager
def _binary(path: Path) -> Iterator[IO[bytes]]:
    if path.suffix.lower() == ".gz":
        with gzip.open(path) as unpacked:
            yield _limited(cast(IO[bytes], unpacked), path.stat().st_size, path)
    elif path.suffix.lower() == ".zip":
        with zipfile.ZipFile(path) as archive:
            inner = [name for name in archive.namelist() if not name.endswith("/") and "__MACOSX" not in name]
            if len(inner) != 1:
                raise ClipBertError(f"{path}: holds {len(inner)} files; expected one. Unpack it and name the file.")
            if archive.getinfo(inner[0]).flag_bits & 1:
                raise ClipBertError(f"{path}: is encrypted. Unpack it with its password and name the unpacked file.")
            with archive.open(inner[0]) as file:
                yield _limited(file, archive.getinfo(inner[0]).compress_size, path)
    else:
        with path.open("rb") as file:
            yield file


def _limited(unpacked: IO[bytes], packed_bytes: int, path: Path) -> IO[bytes]:
    return io.BufferedReader(UnpackedStream(unpacked, packed_bytes, path), BUFFER)


class _RowLines:
    """Lines for the csv reader, which joins those of a quoted field; rows that are too long are rejected.

    Attributes:
        chars: length of the lines since it was set to 0.
    """

    def __init__(self, path: Path, first: str, rest: Iterator[str]) -> None:
        self._path, self._lines, self._number = path, itertools.chain([first], rest), 0
        self.chars = 0

    def __iter__(self) -> Iterator[str]:
        for number, line in enumerate(self._lines, start=1):
            self.chars += len(line)
            if self.chars > MAX_LINE_CHARS:
                raise line_error(self._path, f"the row that ends after line {number}")
            yield line


def _header(path: Path, cells: list[str], layout: str) -> list[str]:
    columns = [cell.strip() for cell in cells]
    repeated = sorted({column for column in columns if columns.count(column) > 1})
    if repeated:
        raise ClipBertError(f"{path}: column {repeated[0]!r} is twice in the header; expected {layout}.")
    return columns
