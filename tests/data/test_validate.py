"""The gate: good tables pass, every kind of bad one fails with its rows and what to do, and pages are written."""

import json
import os
import re
import tempfile
from pathlib import Path
from typing import Any

import pytest

from clipbert.data.manifest import (
    TEXTS_FILE,
    TEXTS_SCHEMA,
    VIDEOS_FILE,
    VIDEOS_SCHEMA,
    write_table,
)
from clipbert.data.validate import validate
from clipbert.errors import ClipBertError
from clipbert.params import ValidateParams

Row = dict[str, Any]

PARAMS = ValidateParams()


def video(number: int, split: str | None) -> Row:
    return {
        "media": f"videos/{number}.mp4",
        "kind": "video",
        "split": split,
        "sha256": f"{number:064}",
        "bytes": 1000,
        "container": "mp4",
        "codec": "h264",
        "width": 64,
        "height": 48,
        "fps": 8.0,
        "duration_s": 2.0,
        "num_frames": 16,
        "rotation": 0,
        "path_taken": "decord",
        "path_reason": "plain",
    }


def text(identity: str, number: int, split: str) -> Row:
    row = {"id": identity, "kind": "caption", "media": f"videos/{number}.mp4", "text": "a red ball", "split": split}
    return dict.fromkeys(TEXTS_SCHEMA.names) | row


def question(identity: str, **values: Any) -> Row:
    return text(identity, 0, "train") | {"kind": "open_qa", "answer": "red"} | values


def choice(identity: str, **values: Any) -> Row:
    return text(identity, 0, "train") | {"kind": "multiple_choice", "options": ["a", "b"], "answer_index": 1} | values


def videos() -> list[Row]:
    return [video(0, "train"), video(1, "train"), video(2, "val"), video(3, "test"), video(4, None)]


def texts() -> list[Row]:
    splits = ["train", "train", "val", "test"]
    captions = [text(f"c{number}", number, split) for number, split in enumerate(splits)]
    return [*captions, question("q0"), choice("m0"), question("c0")]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "manifest").mkdir()
    return tmp_path


def write(folder: Path, video_rows: list[Row], text_rows: list[Row]) -> Path:
    for name, schema, rows in (
        (VIDEOS_FILE, VIDEOS_SCHEMA, video_rows),
        (TEXTS_FILE, TEXTS_SCHEMA, text_rows),
    ):
        with write_table(folder / "manifest" / name, schema) as table:
            for row in rows:
                table.add(row)
    return folder / "manifest"


def failures(folder: Path, params: ValidateParams = PARAMS) -> tuple[dict[tuple[str, str], Row], str]:
    """The failing expectations of result.json by (table, column), and the message."""
    with pytest.raises(ClipBertError) as caught:
        validate(folder / "manifest", folder / "out", params)
    result = json.loads((folder / "out" / "result.json").read_text())
    assert result["success"] is False
    assert (folder / "out" / "data_docs" / "index.html").is_file()
    assert "expectations fail: everything after the gate waits" in (folder / "out" / "index.html").read_text()
    found = {(row["table"], row["column"]): row for row in result["expectations"] if not row["success"]}
    return found, str(caught.value)


def test_good_tables_pass(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stray = folder / "tmp"
    stray.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(stray))
    validate(write(folder, videos(), texts()), folder / "out", PARAMS)
    result = json.loads((folder / "out" / "result.json").read_text())
    assert result["success"] is True
    assert result["rows"] == {"splits": 3, "texts": 7, "videos": 5}
    assert len(result["expectations"]) > 30
    for row in result["expectations"]:
        assert (row["success"], row["severity"], row["unexpected_count"]) == (True, "critical", 0)
        assert row["failing_rows"] == []
    page = (folder / "out" / "index.html").read_text()
    assert f"All {len(result['expectations'])} expectations hold" in page
    assert "http" not in page
    assert (folder / "out" / re.findall(r'href="(data_docs/[^"]+)"', page)[0]).is_file()
    docs = (folder / "out" / "data_docs" / "index.html").read_text()
    assert "texts" in docs
    assert str(folder) not in docs
    assert sorted(path.name for path in (folder / "out").iterdir()) == ["data_docs", "index.html", "result.json"]
    assert sorted(path.name for path in folder.iterdir()) == ["manifest", "out", "tmp"]
    assert list(stray.iterdir()) == []
    assert os.environ["GX_ANALYTICS_ENABLED"] == "false"


def test_wrong_videos(folder: Path) -> None:
    rows = videos()
    rows[0] |= {"duration_s": 0.0, "width": 0, "num_frames": 0}
    rows[1] |= {"kind": "sound", "fps": -1.0}
    rows.append(rows[4])
    write(folder, rows, texts())
    found, _ = failures(folder)
    assert set(found) == {("videos", name) for name in ("duration_s", "width", "num_frames", "kind", "fps", "media")}
    assert found["videos", "width"]["failing_rows"] == [{"width": 0, "media": "videos/0.mp4", "split": "train"}]
    assert found["videos", "media"]["unexpected_count"] == 2


def test_wrong_texts(folder: Path) -> None:
    rows = texts()
    rows[1] |= {"id": "c0"}
    rows[2] |= {"text": "x" * 2001}
    rows[3] |= {"media": "videos/gone.mp4"}
    rows += [question("q1", answer=" "), question("q2", answer=None), question("q3", split="dev", text="")]
    rows += [choice("m1", answer_index=2), choice("m2", answer_index=-1), choice("m3", answer_index=None)]
    write(folder, videos(), rows)
    found, message = failures(folder)
    assert {key: row["unexpected_count"] for key, row in found.items() if key[0] == "texts"} == {
        ("texts", "kind, id"): 2,
        ("texts", "text_chars"): 2,
        ("texts", "media_known"): 1,
        ("texts", "answer_chars"): 2,
        ("texts", "split"): 1,
        ("texts", "splits_of_media"): 10,
        ("texts", "options_count, answer_index"): 1,
        ("texts", "answer_index"): 1,
    }
    assert {"text_chars": 2001, "id": "c2", "kind": "caption", "media": "videos/2.mp4", "split": "val"} in found[
        "texts", "text_chars"
    ]["failing_rows"]
    assert len(found["texts", "splits_of_media"]["failing_rows"]) == 5
    assert "longer than validate.max_text_chars = 2000: shorten it, or raise the limit." in message
    assert f"{folder / 'manifest'}: the data fails {len(found) + 1} of " in message
    assert str(folder / "out" / "index.html") in message


def test_a_long_text_within_a_raised_limit(folder: Path) -> None:
    rows = [*texts(), text("long", 0, "train") | {"text": "x" * 200_000}]
    write(folder, videos(), rows)
    found, message = failures(folder)
    assert set(found) == {("texts", "text_chars")}
    assert "text_chars=200000, id=long" in message
    assert len(message) < 1000
    validate(folder / "manifest", folder / "out", ValidateParams(max_text_chars=200_000))
    assert json.loads((folder / "out" / "result.json").read_text())["success"] is True


def test_wrong_splits(folder: Path) -> None:
    rows = videos()
    rows[3]["sha256"] = rows[0]["sha256"]
    rows[4]["sha256"] = rows[1]["sha256"]
    write(folder, rows, [*texts(), text("leak", 1, "test")])
    found, message = failures(folder, ValidateParams(min_videos_per_split=2))
    assert set(found) == {("texts", "splits_of_media"), ("videos", "splits_of_file"), ("splits", "media_count")}
    assert "give all texts of one video the same split" in message
    assert "splits_of_media=2, id=leak, kind=caption, media=videos/1.mp4, split=test" in message
    copies = found["videos", "splits_of_file"]["failing_rows"]
    assert [row["media"] for row in copies] == ["videos/0.mp4", "videos/3.mp4"]
    assert "The same file lies in several splits" in message
    assert found["splits", "media_count"]["failing_rows"] == [
        {"media_count": 1, "split": "val"},
        {"media_count": 1, "split": "test"},
    ]
    assert "lower validate.min_videos_per_split" in message


def test_a_passing_run_of_captions_alone_replaces_a_failed_one(folder: Path) -> None:
    write(folder, videos(), [row for row in texts() if row["kind"] == "caption"])
    failures(folder, ValidateParams(min_videos_per_split=2))
    validate(folder / "manifest", folder / "out", PARAMS)
    pages = list((folder / "out" / "data_docs" / "validations").glob("**/*.html"))
    assert len(pages) == 3


def test_no_manifest(tmp_path: Path) -> None:
    with pytest.raises(ClipBertError, match="Make the manifest first: clipbert ingest"):
        validate(tmp_path / "manifest", tmp_path / "out", PARAMS)
    assert list(tmp_path.iterdir()) == []
