"""JSON read item by item gives what `json.loads` gives, wherever the reading is cut, and holds no large item."""

import io
import json
from pathlib import Path
from typing import Any

import pytest

from clipbert.data.importers import json_items
from clipbert.data.importers.json_items import JsonItems, JsonSyntaxError, NoListError
from clipbert.errors import ClipBertError

ITEMS: list[Any] = [{"a": [1, 2, {"b": ']},\\" ü \U0001f600'}]}, 12345, -1.5e3, "text", None, True, [], {}, 7, 10**30]


def read(text: str, key: str | None = None) -> list[Any]:
    return list(JsonItems(io.StringIO(text), Path("f.json")).items(key))


@pytest.mark.parametrize("chunk", [1, 2, 3, 7, 1000])
@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("ascii_only", [True, False])
def test_items(monkeypatch: pytest.MonkeyPatch, chunk: int, indent: int | None, ascii_only: bool) -> None:
    monkeypatch.setattr(json_items, "CHUNK", chunk)
    text = json.dumps(ITEMS, indent=indent, ensure_ascii=ascii_only)
    assert read(text) == ITEMS
    inside = json.dumps({"info": {"x": [1]}, "others": [{}, []], "wanted": ITEMS, "after": 1}, indent=indent)
    assert read(inside, "wanted") == ITEMS
    members = json.dumps({"a": ITEMS, "b": 1})
    assert list(JsonItems(io.StringIO(members), Path("f.json")).members()) == [("a", ITEMS), ("b", 1)]


@pytest.mark.parametrize("chunk", [1, 5, 12, 1000])
def test_half_of_a_surrogate_pair_is_kept_as_it_is(monkeypatch: pytest.MonkeyPatch, chunk: int) -> None:
    monkeypatch.setattr(json_items, "CHUNK", chunk)
    text = r'["a \ud83d\ude00 b", "\\ud83d", "x\ud800", "\udc00y", "\\\ud800"]'
    half = "\ud800"
    assert read(text) == ["a \U0001f600 b", "\\ud83d", f"x{half}", f"{half}y", f"\\{half}"]


@pytest.mark.parametrize(
    "text", ["[1, 2", "[1 2]", '[{"a": }]', '["a', "[1,]", "[1] x", "[NaN]", '{"w" [1]}', '{"a": 1 "w": [1]}']
)
def test_wrong_json(text: str) -> None:
    with pytest.raises(JsonSyntaxError, match="error"):
        read(text, "w" if text.startswith("{") else None)


def test_no_list() -> None:
    for text, key in (("", None), (" \n", None), ("{}", None), ("[]", "w"), ('{"w": 3}', "w"), ('{"a": [1]}', "w")):
        with pytest.raises(NoListError):
            read(text, key)


@pytest.mark.parametrize(
    ("text", "key", "said"),
    [
        (
            '[1, "{long}"]',
            None,
            "f.json: item 2: a string or number is larger than 0.0625 MiB, the limit of a JSON item",
        ),
        ('[1, ["{short}", "{short}", "{short}"]]', None, "f.json: item 2: it is larger than 0.0625 MiB"),
        ('{"a": "{long}", "w": []}', "w", "f.json: item 1: a string or number is larger"),
        ('{"{long}": 1, "w": []}', "w", "f.json: item 1: a string or number is larger"),
        ("[1, " + "[" * 70 + "]" * 70 + "]", None, "f.json: item 2: nested more than 64 levels deep"),
    ],
)
def test_a_large_item_is_refused(monkeypatch: pytest.MonkeyPatch, text: str, key: str | None, said: str) -> None:
    monkeypatch.setattr(json_items, "CHUNK", 1 << 10)
    monkeypatch.setattr(json_items, "MAX_ITEM_BYTES", 1 << 16)
    text = text.replace("{long}", "x" * 200_000).replace("{short}", "x" * 30_000)
    with pytest.raises(ClipBertError) as caught:
        read(text, key)
    assert said in str(caught.value)
