"""quarantine.jsonl of the frame cache: a changed byte is detected, older lines are read."""

import json
from pathlib import Path

import pytest
from byte_flips import unnoticed_flips

from clipbert.data.quarantine import NotDecoded, read_quarantine, write_quarantine
from clipbert.errors import ClipBertError

SETTINGS = {"timeout_s": 60.0, "max_worker_mb": 2048}
RECORDS = [
    NotDecoded("videos/a.mp4", "truncated", "ends after 1.0 s", 1.0, sha256="ab" * 32, decoder="pyav", **SETTINGS),
    NotDecoded("videos/\u00fc.mp4", "unreadable", "most\u2028", None, sha256="cd" * 32, decoder="decord", **SETTINGS),
]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    write_quarantine(tmp_path / "quarantine.jsonl", RECORDS, checksums=True)
    return tmp_path / "quarantine.jsonl"


def test_what_was_written_comes_back(path: Path) -> None:
    assert read_quarantine(path, NotDecoded) == RECORDS
    assert list(json.loads(path.read_text().split("\n")[0])) == [
        "media",
        "reason",
        "detail",
        "first_bad_s",
        "sha256",
        "decoder",
        "timeout_s",
        "max_worker_mb",
        "checksum",
    ]
    assert read_quarantine(path.with_name("none.jsonl"), NotDecoded) == []


def test_flips_are_detected_or_change_nothing(path: Path) -> None:
    def read() -> None:
        if read_quarantine(path, NotDecoded) == RECORDS:
            raise ClipBertError(f"{path.name}: the same records")

    assert unnoticed_flips(path, read, 400) == []


def test_a_changed_reason_is_reported_with_its_line(path: Path) -> None:
    path.write_text(path.read_text().replace("unreadable", "unreadible"))
    with pytest.raises(ClipBertError, match=r"quarantine\.jsonl: line 2 is damaged .*checksum.*clipbert frames"):
        read_quarantine(path, NotDecoded)


def test_lines_without_a_checksum_are_read(path: Path) -> None:
    rows = [json.loads(line) for line in path.read_text().split("\n") if line]
    path.write_text("".join(json.dumps({k: v for k, v in row.items() if k != "checksum"}) + "\n" for row in rows))
    assert read_quarantine(path, NotDecoded) == RECORDS
