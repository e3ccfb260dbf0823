"""Streaming reader of JSON files by ijson: one item in memory at a time."""

import difflib
import re
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import IO, Any

import ijson

from clipbert.data.importers.limits import MAX_DEPTH, MAX_ITEM_BYTES, item_error, mebibytes
from clipbert.errors import ClipBertError

CHUNK = 1 << 16
Event = tuple[str, Any]

# yajl reads half of a surrogate pair as "?". It is replaced before by a noncharacter, and restored after.
LONE_MARK = "\ufdd0"
LONE_SURROGATE = "\ud800"
_ESCAPES = re.compile(
    r"\\(?:u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|(u[dD][89a-fA-F][0-9a-fA-F]{2})|.)", re.DOTALL
)
LONGEST_ESCAPE = 12
LONGEST_RUN = 1 << 16  # escapes that are read together


class NoListError(Exception):
    """Error for a file without the expected list."""


class JsonSyntaxError(ValueError):
    """Error for text that is not JSON."""


class JsonItems:
    """Reader of the items of a JSON list, or the members of a JSON object, from a text stream.

    Memory is bounded: ijson reports tokens, and an item of more than MAX_ITEM_BYTES or MAX_DEPTH levels is refused
    while it is read.

    Attributes:
        number: how many items have been read.
    """

    def __init__(self, stream: IO[str], path: Path) -> None:
        self.number = 0
        self._path = path
        self._source = _Source(stream)

    def items(self, key: str | None) -> Iterator[Any]:
        """Yield the items of the list that is the whole file, or that is under a key of its object.

        Raises:
            NoListError: the list is missing.
            JsonSyntaxError: the text is not JSON.
            ClipBertError: an item is too large.
        """
        events = self._events()
        event = self._opening(events)
        if key is None:
            if event != "start_array":
                raise NoListError("holds no list")
            yield from self._list(events)
            for _ in events:  # check the syntax after the list
                pass
            return
        if event != "start_map":
            raise NoListError(f"holds no object with {key!r}")
        names: list[str] = []
        for name in self._keys(events):
            names.append(shorten(name))
            event, _ = next(events)
            if name == key:
                if event != "start_array":
                    raise NoListError(f"{key!r} is not a list")
                yield from self._list(events)
                return
            self._skip(events, event)
        near = difflib.get_close_matches(key, names, n=1)
        hint = f" (did you mean {near[0]}?)" if near else ""
        raise NoListError(f"has no {key!r}{hint}, only {', '.join(names[:20]) or 'nothing'}")

    def members(self) -> Iterator[tuple[str, Any]]:
        """Yield (key, value) of the object that is the whole file.

        Raises:
            NoListError: the file holds no object.
            JsonSyntaxError: the text is not JSON.
            ClipBertError: a value is too large.
        """
        events = self._events()
        if self._opening(events) != "start_map":
            raise NoListError("holds no object")
        for name in self._keys(events):
            value = self._value(events, *next(events))
            self.number += 1
            yield name, value
        for _ in events:
            pass

    def _opening(self, events: Iterator[Event]) -> str:
        """Return the first event; for an empty file an empty one."""
        try:
            return next(events, ("", None))[0]
        except JsonSyntaxError:
            if self._source.empty:
                return ""
            raise

    def _events(self) -> Iterator[Event]:
        """Yield the tokens; each resets the count of bytes read, so that only one token can be too long."""
        source = self._source
        try:
            for event, value in ijson.basic_parse(source, buf_size=CHUNK):
                source.since_token = 0
                if event == "string" and LONE_MARK in value:
                    value = value.replace(LONE_MARK, LONE_SURROGATE)
                yield event, value
        except _TooLongError:
            raise self._too_large("a string or number") from None
        except UnicodeDecodeError:
            raise
        except (ijson.JSONError, ValueError, RecursionError) as error:
            raise JsonSyntaxError(_one_line(error)) from None

    def _keys(self, events: Iterator[Event]) -> Iterator[str]:
        for event, value in events:
            if event == "end_map":
                return
            yield value

    def _list(self, events: Iterator[Event]) -> Iterator[Any]:
        for event, value in events:
            if event == "end_array":
                return
            item = self._value(events, event, value)
            self.number += 1
            yield item

    def _value(self, events: Iterator[Event], event: str, value: Any) -> Any:
        """Build the value that begins with an event."""
        self._source.since_item = 0
        if not event.startswith("start_"):
            return _scalar(value)
        top: Any = {} if event == "start_map" else []
        stack, key = [top], ""
        keys: list[str] = []
        for event, value in events:
            if self._source.since_item > MAX_ITEM_BYTES + CHUNK:
                raise self._too_large("it")
            if event == "map_key":
                key = value
                continue
            if event.startswith("end_"):
                stack.pop()
                if not stack:
                    return top
                key = keys.pop()
                continue
            begins = event.startswith("start_")
            made: Any = ({} if event == "start_map" else []) if begins else _scalar(value)
            if isinstance(stack[-1], dict):
                stack[-1][key] = made
            else:
                stack[-1].append(made)
            if begins:
                if len(stack) >= MAX_DEPTH:
                    raise item_error(self._path, self.number + 1, f"nested more than {MAX_DEPTH} levels deep")
                keys.append(key)
                stack.append(made)
        return top

    def _skip(self, events: Iterator[Event], event: str) -> None:
        depth = int(event.startswith("start_"))
        while depth:
            event, _ = next(events)
            depth += event.startswith("start_") - event.startswith("end_")

    def _too_large(self, what: str) -> ClipBertError:
        return item_error(
            self._path, self.number + 1, f"{what} is larger than {mebibytes(MAX_ITEM_BYTES)}, the limit of a JSON item"
        )


class _TooLongError(Exception):
    """Error for a token that is longer than an item may be."""


class _Source:
    """Bytes of a text stream for ijson, counted since the last token and since the start of the item."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream
        self.since_token = 0
        self.since_item = 0
        self.empty = True

    def read(self, size: int) -> bytes:
        """Return about `size` bytes of UTF-8."""
        if self.since_token > MAX_ITEM_BYTES:
            raise _TooLongError
        text = self._stream.read(size)
        if "\\" in text[-LONGEST_ESCAPE:]:  # do not split a surrogate pair
            text += self._rest_of_escape()
        if "\\ud" in text or "\\uD" in text:
            text = _ESCAPES.sub(lambda found: f"\\u{ord(LONE_MARK):x}" if found[1] else found[0], text)
        data = text.encode("utf-8", "surrogatepass")
        self.empty = self.empty and not data.strip()
        self.since_token += len(data)
        self.since_item += len(data)
        return data

    def _rest_of_escape(self) -> str:
        rest = ""
        while len(rest) < LONGEST_RUN:
            more = self._stream.read(LONGEST_ESCAPE)
            rest += more
            if not more or "\\" not in more:
                break
        return rest


def shorten(name: str) -> str:
    """Return a name as messages show it."""
    return name if len(name) <= 60 else f"{name[:57]}..."


def _scalar(value: Any) -> Any:
    return float(value) if isinstance(value, Decimal) else value


def _one_line(error: Exception) -> str:
    """Return yajl's message and the text around the error on one line."""
    message = error.args[0] if error.args else str(error)
    if isinstance(message, bytes):
        message = message.decode("utf-8", "replace")
    what, _, around = str(message).partition("\n")
    near = " ".join(around.split("(right here)")[0].split())
    return f"{what.strip().rstrip('.')}, near {near!r}" if near else what.strip().rstrip(".")
