"""A JSON list read item by item gives what `json.loads` gives, wherever the reading is cut."""

import io
import json
from typing import Any

import pytest

from clipbert.data.adapters import json_stream
from clipbert.data.adapters.json_stream import JsonStream, NoListError

ITEMS: list[Any] = [{"a": [1, 2, {"b": ']},\\" ü \U0001f600'}]}, 12345, -1.5e3, "text", None, True, [], {}, 7]


@pytest.mark.parametrize("chunk", [1, 2, 3, 7, 1000])
@pytest.mark.parametrize("indent", [None, 2])
def test_items(monkeypatch: pytest.MonkeyPatch, chunk: int, indent: int | None) -> None:
    monkeypatch.setattr(json_stream, "CHUNK", chunk)
    text = json.dumps(ITEMS, indent=indent, ensure_ascii=False)
    assert list(JsonStream(io.StringIO(text)).items(None)) == ITEMS
    inside = json.dumps({"info": {"x": [1]}, "others": [{}, []], "wanted": ITEMS, "after": 1}, indent=indent)
    assert list(JsonStream(io.StringIO(inside)).items("wanted")) == ITEMS


@pytest.mark.parametrize(
    "text", ["[1, 2", "[1 2]", '[{"a": }]', '["a', "[1,]", '{"w" [1]}', '{"a": 1 "w": [1]}', '{"w": 3}']
)
@pytest.mark.parametrize("chunk", [1, 1000])
def test_wrong_json(monkeypatch: pytest.MonkeyPatch, text: str, chunk: int) -> None:
    monkeypatch.setattr(json_stream, "CHUNK", chunk)
    with pytest.raises(json.JSONDecodeError):
        list(JsonStream(io.StringIO(text)).items("w" if text.startswith("{") else None))


def test_no_list() -> None:
    for text, key in (("", None), ("{}", None), ("[]", "w"), ('{"a": [1], "b": 2}', "w")):
        with pytest.raises(NoListError):
            list(JsonStream(io.StringIO(text)).items(key))


def test_a_huge_file_is_not_held(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_stream, "CHUNK", 64)
    stream = JsonStream(io.StringIO(json.dumps([{"a": "x" * 50}] * 500)))
    longest = 0
    for _ in stream.items(None):
        longest = max(longest, len(stream._text))
    assert longest < 1000
