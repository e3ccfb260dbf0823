"""A JSON list read item by item: official files of several hundred megabytes never lie in memory whole."""

import json
from collections.abc import Iterator
from typing import IO, Any

CHUNK = 1 << 20
MAX_ITEM = 1 << 28


class NoListError(Exception):
    """The list that was looked for is not there."""


class JsonStream:
    """The items of a JSON list one by one, from text that is read as it is needed."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream
        self._decoder = json.JSONDecoder()
        self._text = ""
        self._at = 0

    def items(self, key: str | None) -> Iterator[Any]:
        """The items of the list that is the whole file, or that lies under a key of its object.

        Raises:
            NoListError: there is no such list.
            ValueError, RecursionError: the text is not JSON.
        """
        opening = self._next()
        if key is None:
            if opening != "[":
                raise NoListError("holds no list")
            yield from self._list()
            return
        if opening != "{":
            raise NoListError(f"holds no object with {key!r}")
        names: list[str] = []
        while self._peek() != "}":
            if names:
                self._expect(",")
            name = self._value()
            names.append(str(name))
            self._expect(":")
            if name == key:
                self._expect("[")
                yield from self._list()
                return
            self._skip()
        raise NoListError(f"has no {key!r}, only {', '.join(names) or 'nothing'}")

    def _list(self) -> Iterator[Any]:
        if self._peek() != "]":
            yield self._value()
            while self._peek() != "]":
                self._expect(",")
                yield self._value()
        self._next()

    def _skip(self) -> None:
        if self._peek() == "[":
            self._next()
            for _ in self._list():
                pass
        else:
            self._value()

    def _value(self) -> Any:
        self._peek()
        while True:
            try:
                value, end = self._decoder.raw_decode(self._text, self._at)
            except json.JSONDecodeError:
                # Cut off by the end of what has been read, or wrong; only more text can tell.
                if len(self._text) - self._at > MAX_ITEM or not self._more():
                    raise
                continue
            if end < len(self._text) or not self._more():
                self._at = end
                return value

    def _peek(self) -> str:
        while True:
            while self._at < len(self._text):
                if not self._text[self._at].isspace():
                    return self._text[self._at]
                self._at += 1
            if not self._more():
                return ""

    def _next(self) -> str:
        letter = self._peek()
        self._at += len(letter)
        return letter

    def _expect(self, letter: str) -> None:
        if self._next() != letter:
            raise json.JSONDecodeError(f"Expecting {letter!r}", self._text, max(self._at - 1, 0))

    def _more(self) -> bool:
        """Read on, at least as much as is held; whether there was more."""
        held = self._text[self._at :]
        read = self._stream.read(max(CHUNK, len(held)))
        self._text, self._at = held + read, 0
        return bool(read)
