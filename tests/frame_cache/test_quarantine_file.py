"""quarantine.jsonl of the frame cache: a changed byte is noticed, older lines are read."""

import json
from pathlib import Path

import pytest
from byte_flips import unnoticed_flips

from clipbert.data.quarantine import read_quarantine as read_listed
from clipbert.errors import ClipBertError
from clipbert.frame_cache.quarantine import Quarantined, damage_of, read_quarantine, write_quarantine

RECORDS = [
    Quarantined("videos/a.mp4", "truncated", "ends after 1.0 s", 1.0, "ab" * 32, "pyav", 60.0, 2048),
    Quarantined("videos/\u00fc.mp4", "unreadable", "most of it\u2028", None, "cd" * 32, "decord", 60.0, 2048),
]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    write_quarantine(tmp_path / "quarantine.jsonl", RECORDS)
    return tmp_path / "quarantine.jsonl"


def test_what_was_written_comes_back(path: Path) -> None:
    assert list(read_quarantine(path).values()) == RECORDS
    assert [row.detail for row in read_listed(path, "frames")] == [record.detail for record in RECORDS]
    assert damage_of(path) is None
    assert damage_of(path.with_name("none.jsonl")) is None


def test_flips_are_noticed_or_change_nothing(path: Path) -> None:
    def read() -> None:
        if problem := damage_of(path):
            raise ClipBertError(problem)
        if list(read_quarantine(path).values()) == RECORDS:
            raise ClipBertError(f"{path.name}: the same records")

    assert unnoticed_flips(path, read, 400) == []


def test_a_changed_reason_is_named_to_whoever_lists_it(path: Path) -> None:
    path.write_text(path.read_text().replace("truncated", "truncatee"))
    assert read_quarantine(path) == {}
    with pytest.raises(ClipBertError, match=r"quarantine\.jsonl:1: .*checksum.*clipbert frames"):
        read_listed(path, "frames")


def test_lines_without_a_checksum_are_read(path: Path) -> None:
    rows = [json.loads(line) for line in path.read_text().split("\n") if line]
    path.write_text("".join(json.dumps({k: v for k, v in row.items() if k != "checksum"}) + "\n" for row in rows))
    assert list(read_quarantine(path).values()) == RECORDS
