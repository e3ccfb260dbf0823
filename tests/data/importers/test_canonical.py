"""What every import has in common: splits, drops, names, and files that are zipped or not there."""

import gzip
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from clipbert.data.importers.base import importing
from clipbert.data.importers.readers import name_split, records
from clipbert.data.importers.summary import Protocol
from clipbert.errors import ClipBertError


def test_what_is_left_out_is_counted(
    media: Callable[..., Path], source: Callable[..., Any], rows: Callable[[str], list[dict[str, Any]]]
) -> None:
    with importing(source(media("A.mp4", "b.jpg")), Protocol()) as made:
        assert made.caption("1", "a", " one\n two ", "train")
        assert made.caption("2", "b", "größe 犬", "val")
        assert not made.caption("2", "b", "again", "val")
        assert not made.caption("3", "b", "half \ud800", "val")
        assert not made.caption("4", "b", "\t", "val")
        assert made.caption("5", "b", "another split", "test")
        for number in range(12):
            assert not made.caption(f"6-{number}", f"gone{number}", "no file", "test")
    assert [(row["text"], row["media"]) for row in rows("captions.jsonl")] == [
        ("one two", "videos/A.mp4"),
        ("größe 犬", "images/b.jpg"),
        ("another split", "images/b.jpg"),
    ]
    lines = made.summary.lines()
    assert "media: 2 (1 train, 1 val, 0 test; 2 hard-linked, 0 copied)" in lines
    named = ", ".join(f"gone{number}" for number in range(10))
    assert f"missing media: 12 of 14: {named} and 2 more (all in missing_media.txt)" in lines
    assert (
        "left out: 1 with an empty caption, 1 with an id that was used before, 1 with half of a surrogate pair" in lines
    )
    assert "media with texts in two splits: 1: b; clipbert validate rejects them" in lines
    assert "files found under a name that differs in case: 1" in lines


def test_nothing_is_left_after_an_error(tmp_path: Path, media: Callable[..., Path], source: Callable[..., Any]) -> None:
    folder = media("a.mp4")

    def interrupted() -> None:
        with importing(source(folder), Protocol()) as made:
            made.caption("1", "a", "one", "train")
            raise ZeroDivisionError

    def empty() -> None:
        with importing(source(folder), Protocol()):
            pass

    with pytest.raises(ZeroDivisionError):
        interrupted()
    with pytest.raises(ClipBertError, match="nothing to import: the annotations hold no text"):
        empty()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["media"]


def test_hold_out_takes_whole_videos(named: Callable[..., Path], source: Callable[..., Any]) -> None:
    folder = named((str(number) for number in range(100)), ".mp4")
    with importing(source(folder, val=0.3, test=0.2), Protocol()) as made:
        for number in range(100):
            for copy in range(3):
                made.caption(f"{number}-{copy}", str(number), "a text", "train")
    counts = made.summary.splits()
    assert {split: made.summary.written["caption", split] for split in counts} == {s: 3 * n for s, n in counts.items()}
    assert 15 < counts["val"] < 45
    assert 8 < counts["test"] < 35


def test_zip_and_gzip(tmp_path: Path) -> None:
    text = b'\xef\xbb\xbf[{"a": 1}]'
    with gzip.open(tmp_path / "a.json.gz", "wb") as file:
        file.write(text)
    with zipfile.ZipFile(tmp_path / "a.json.zip", "w") as archive:
        archive.writestr("folder/a.json", text)
        archive.writestr("__MACOSX/._a.json", b"other")
    for name in ("a.json.gz", "a.json.zip"):
        assert [row.integer("a") for row in records(tmp_path / name, "a list")] == [1]
    with zipfile.ZipFile(tmp_path / "two.zip", "w") as archive:
        archive.writestr("a.json", text)
        archive.writestr("b.json", text)
    with pytest.raises(ClipBertError, match=r"two\.zip: holds 2 files; expected one"):
        list(records(tmp_path / "two.zip", "a list"))
    (tmp_path / "cut.json.gz").write_bytes((tmp_path / "a.json.gz").read_bytes()[:-9])
    with pytest.raises(ClipBertError, match=r"cut\.json\.gz: cannot be read"):
        list(records(tmp_path / "cut.json.gz", "a list"))


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("MSRVTT_train.9k.csv", "train"),
        ("v2_mscoco_val2014_annotations.json", "val"),
        ("Flickr_8k.devImages.txt", None),
        ("Test_action_question.csv", "test"),
        ("latest.json", None),
    ],
)
def test_split_of_a_name(name: str, split: str | None) -> None:
    assert name_split(name) == split
