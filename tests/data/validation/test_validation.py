"""The gate: good tables pass, every kind of bad one fails with its rows and what to do, and pages are written."""

import json
import os
import re
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from clipbert.config.data import ValidateParams
from clipbert.data.manifest import (
    TEXTS_FILE,
    TEXTS_SCHEMA,
    VIDEOS_FILE,
    VIDEOS_SCHEMA,
    write_table,
)
from clipbert.data.validation.stage import validate
from clipbert.errors import ClipBertError

Row = dict[str, Any]

PARAMS = ValidateParams(min_train_videos=0)


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
        "looks": [int(value) for value in np.random.default_rng(number).integers(-(2**63), 2**63 - 1, 8)],
        "brightness": 100.0,
        "motion": 5.0,
        "damage": None,
        "remarks": None,
        "first_bad_s": None,
    }


def image(number: int) -> Row:
    shown = {"media": f"images/{number}.jpg", "kind": "image", "fps": 1.0, "duration_s": 1.0, "num_frames": 1}
    return video(number, None) | shown | {"looks": [number], "motion": None}


def text(identity: str, number: int, split: str) -> Row:
    row = {"id": identity, "kind": "caption", "media": f"videos/{number}.mp4", "split": split}
    row["text"] = f"a red ball no. {number}"
    return dict.fromkeys(TEXTS_SCHEMA.names) | row


def question(identity: str, **values: Any) -> Row:
    return text(identity, 0, "train") | {"kind": "open_qa", "answer": "red"} | values


def choice(identity: str, **values: Any) -> Row:
    return text(identity, 0, "train") | {"kind": "multiple_choice", "options": ["a", "b"], "answer_index": 1} | values


def videos() -> list[Row]:
    return [video(0, "train"), video(1, "train"), video(2, "val"), video(3, "test"), video(4, None), image(5)]


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


def result_of(folder: Path) -> Any:
    return json.loads((folder / "out" / "result.json").read_text())


def failures(folder: Path, params: ValidateParams = PARAMS) -> tuple[dict[tuple[str, str], Row], str]:
    """The failing expectations of result.json by (check, column), and the message."""
    with pytest.raises(ClipBertError) as caught:
        validate(folder / "manifest", folder / "out", params)
    result = result_of(folder)
    assert result["success"] is False
    assert (folder / "out" / "data_docs" / "index.html").is_file()
    assert "expectations fail: the later stages do not run" in (folder / "out" / "index.html").read_text()
    return wrong(result), str(caught.value)


def wrong(result: Any) -> dict[tuple[str, str], Row]:
    return {(row["check"], row["column"]): row for row in result["expectations"] if not row["success"]}


def test_good_tables_pass_and_their_pages_need_no_network(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stray = folder / "tmp"
    stray.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(stray))
    validate(write(folder, videos(), texts()), folder / "out", PARAMS)
    result = result_of(folder)
    assert result["success"] is True
    assert result["rows"] == {"splits": 3, "texts": 7, "videos": 6, "sizes": 3}
    assert result["near_duplicates"]["media"] == 0
    assert "baseline" in result["skipped"]["drift"]
    assert len(result["expectations"]) > 40
    for row in result["expectations"]:
        assert (row["success"], row["failing_rows"]) == (True, [])
    page = (folder / "out" / "index.html").read_text()
    assert f"All {len(result['expectations'])} expectations hold" in page
    for link in re.findall(r'href="([^"#]+)"', page):
        assert (folder / "out" / link).is_file()
    files = [path for path in (folder / "out").rglob("*") if path.is_file()]
    assert len([path for path in files if path.suffix == ".html"]) == 10
    assert {path.suffix for path in files} == {".html", ".json", ".csv", ".parquet", ".sha256"}
    for path in files:
        if path.suffix == ".html":
            text = path.read_text()
            assert not re.search(r"""https?:|(?:src|href)=["']//|<script[^>]*src|@import""", text), path
            assert "#f5f6f9" in text
    docs = (folder / "out" / "data_docs" / "index.html").read_text()
    assert docs.count("✓ succeeded") == 4
    assert [(folder / "out" / "data_docs" / link).is_file() for link in re.findall(r'href="([a-z]+/[^"]+)"', docs)] == [
        True
    ] * 8
    assert str(folder) not in docs
    assert sorted(path.name for path in folder.iterdir()) == ["manifest", "out", "tmp"]
    assert list(stray.iterdir()) == []
    assert os.environ["GX_ANALYTICS_ENABLED"] == "false"


def test_wrong_and_odd_videos(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = videos()
    rows[0] |= {"duration_s": 0.0, "width": 0, "num_frames": 0, "motion": 0.0, "damage": "a hole"}
    rows[1] |= {"kind": "sound", "fps": -1.0, "brightness": 2.0}
    rows[2] |= {"fps": 500.0}
    rows.append(rows[4])
    write(folder, rows, texts())
    found, _ = failures(folder)
    hard = {key for key, row in found.items() if row["severity"] == "fail"}
    assert hard == {
        ("ids", "media"),
        ("schema", "kind"),
        *(("media_values", name) for name in ("duration_s", "width", "num_frames", "fps")),
    }
    odd = {("durations", "duration_s"), ("frame_rates", "fps"), ("resolutions", "short_side"), ("black", "brightness")}
    assert found.keys() - hard == odd | {("frozen", "motion"), ("damaged", "damage")}
    assert found["media_values", "width"]["failing_rows"] == [{"width": 0, "media": "videos/0.mp4", "split": "train"}]
    assert found["ids", "media"]["unexpected_count"] == 2
    said = capsys.readouterr().out
    assert "validate: warning: frozen: videos" in said
    assert "motion=0.0, media=videos/0.mp4, split=train" in said
    assert "still pictures, or stuck recordings" in said


def test_a_single_file_with_a_remark_is_named(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = videos()
    rows[1] |= {"remarks": "HDR (PQ)"}
    write(folder, rows, texts())
    validate(folder / "manifest", folder / "out", PARAMS)
    failing = [row for row in result_of(folder)["expectations"] if not row["success"] and row["check"] == "remarks"]
    assert [(row["severity"], row["unexpected_count"]) for row in failing] == [("warn", 1)]
    assert failing[0]["failing_rows"] == [{"remarks": "HDR (PQ)", "media": "videos/1.mp4", "split": "train"}]
    assert "remarks=HDR (PQ), media=videos/1.mp4, split=train" in capsys.readouterr().out


def test_wrong_texts(folder: Path) -> None:
    rows = texts()
    rows[1] |= {"id": "c0"}
    rows[2] |= {"text": "x" * 2001}
    rows[3] |= {"media": "videos/gone.mp4"}
    rows += [question("q1", answer=" "), question("q2", answer=None), question("q3", split="dev", text="")]
    rows += [choice("m1", answer_index=2), choice("m2", answer_index=-1), choice("m3", answer_index=None)]
    rows += [text("e1", 0, "train") | {"text": "\u200b ?! \U0001f600"}, text("e2", 0, "train") | {"text": "\u72ac"}]
    write(folder, videos(), rows)
    found, message = failures(folder)
    assert {key: row["unexpected_count"] for key, row in found.items()} == {
        ("ids", "kind, id"): 2,
        ("text_empty", "letters"): 2,
        ("text_length", "text_chars"): 1,
        ("media_exists", "media_known"): 1,
        ("answers", "answer_chars"): 2,
        ("split_sizes", "split"): 1,
        ("split_by_media", "splits_of_media"): 12,
        ("answers", "options_count, answer_index"): 1,
        ("answers", "answer_index"): 1,
    }
    assert {"text_chars": 2001, "id": "c2", "kind": "caption", "media": "videos/2.mp4", "split": "val"} in found[
        "text_length", "text_chars"
    ]["failing_rows"]
    assert len(found["split_by_media", "splits_of_media"]["failing_rows"]) == 5
    assert "longer than validate.max_text_chars = 2000: shorten it, or raise the limit." in message
    assert f"{folder / 'manifest'}: the data fails 10 of " in message
    assert str(folder / "out" / "index.html") in message


def test_wrong_splits_and_look_alikes(folder: Path) -> None:
    rows = videos()
    rows[3]["sha256"] = rows[0]["sha256"]
    rows[3]["looks"] = rows[0]["looks"]
    rows[4]["sha256"] = rows[1]["sha256"]
    write(folder, rows, [*texts(), text("leak", 1, "test") | {"text": "The RED ball no. 2!", "id": "leak"}])
    found, message = failures(folder, ValidateParams(min_videos_per_split=2, min_train_videos=0))
    assert set(found) == {
        ("split_by_media", "splits_of_media"),
        ("split_by_file", "splits_of_file"),
        ("near_duplicates", "near_duplicates"),
        ("split_sizes", "media_count"),
    }
    assert "give all texts of one video the same split" in message
    assert "splits_of_media=2, id=leak, kind=caption, media=videos/1.mp4, split=test" in message
    copies = found["split_by_file", "splits_of_file"]["failing_rows"]
    assert [row["media"] for row in copies] == ["videos/0.mp4", "videos/3.mp4"]
    assert "The same file is in several splits" in message
    assert found["split_sizes", "media_count"]["failing_rows"] == [
        {"media_count": 1, "split": "val"},
        {"media_count": 1, "split": "test"},
    ]
    assert "lower validate.min_videos_per_split" in message
    pair = {
        "media": "videos/3.mp4",
        "split": "test",
        "near_media": "videos/0.mp4",
        "near_split": "train",
        "distance": 0.0,
    }
    assert result_of(folder)["near_duplicates"]["closest"] == [pair]
    assert "media=videos/3.mp4, split=test, near_media=videos/0.mp4, near_split=train, distance=0.0" in message
    listed = pd.read_csv(folder / "out" / "near_duplicates.csv")
    assert listed.to_dict("records") == [pair]
    assert "near-duplicate" in (folder / "out" / "index.html").read_text()


def test_severity_decides_and_the_baseline_moves_only_when_the_gate_passes(folder: Path) -> None:
    out, baseline = folder / "out", folder / "out" / "baseline"
    write(folder, videos(), [row for row in texts() if row["kind"] == "caption"])
    validate(folder / "manifest", out, PARAMS)
    first = (baseline / "last.parquet").read_bytes()
    assert result_of(folder)["drift"] is None

    more = [*videos(), video(6, None) | {"duration_s": 3.0}]
    more[1]["sha256"] = "f" * 64
    captions = [*texts()[:4], text("long", 0, "train") | {"text": "x" * 3000}]
    write(folder, more, captions)
    found, message = failures(folder)
    assert "text_chars=3000, id=long" in message
    assert len(message) < 1000
    assert (baseline / "last.parquet").read_bytes() == first
    assert found["drift", "limit, value"]["severity"] == "warn"

    lenient = ValidateParams.model_validate({"severity": {"text_length": "warn"}})
    validate(folder / "manifest", out, lenient)
    once = (out / "result.json").read_bytes()
    assert json.loads(once)["success"] is True
    assert (baseline / "before.parquet").read_bytes() == first
    drifted = {row["measure"]: row["value"] for row in json.loads(once)["drift"]}
    assert drifted == {
        "new": round(1 / 7, 6),
        "removed": 0.0,
        "changed": round(1 / 6, 6),
        "durations": round(1 / 7, 6),
        "text lengths": 0.2,
    }
    validate(folder / "manifest", out, lenient)
    assert (out / "result.json").read_bytes() == once
    strict = ValidateParams.model_validate({"severity": {"text_length": "warn", "drift": "fail"}})
    _, message = failures(folder, strict)
    assert "measure=changed, meaning=1 of 6 kept media have other bytes" in message


def test_answers_out_of_the_vocabulary_unbalanced_answers_and_captions_in_two_splits(folder: Path) -> None:
    asked = [question(f"t{number}", answer="red" if number < 19 else "blue") for number in range(20)]
    asked += [question(f"v{number}", split="val", media="videos/2.mp4", answer="blue") for number in range(3)]
    copies = [text("copy", 2, "val") | {"text": "A red  ball no. 0..."}]
    write(folder, videos(), [*texts()[:4], *asked, *copies])
    validate(folder / "manifest", folder / "out", PARAMS, max_answers=1)
    found = wrong(result_of(folder))
    assert {key: row["unexpected_count"] for key, row in found.items()} == {
        ("answer_coverage", "answer_known"): 3,
        ("class_balance", "top_answer_share"): 1,
        ("text_duplicates", "other_splits"): 1,
    }
    assert found["class_balance", "top_answer_share"]["failing_rows"] == [{"top_answer_share": 0.95, "split": "train"}]
    assert "raise tasks.open_qa.max_answers" in found["answer_coverage", "answer_known"]["remedy"]
    assert "Passed: " in (folder / "out" / "index.html").read_text()


def test_the_sample_set_passes_with_the_default_parameters(tiny_project: Path, tmp_path: Path) -> None:
    validate(tiny_project / "artifacts" / "manifest", tmp_path / "out", PARAMS)
    result = result_of(tmp_path)
    assert result["success"] is True
    assert result["rows"]["videos"] == 66
    assert result["rows"]["answers"] > 0
    page = (tmp_path / "out" / "index.html").read_text()
    assert page.count('class="bars"') >= 3
    assert "Kolmogorov" not in page


def test_no_manifest(tmp_path: Path) -> None:
    with pytest.raises(ClipBertError, match="Make the manifest first: clipbert ingest"):
        validate(tmp_path / "manifest", tmp_path / "out", PARAMS)
    assert list(tmp_path.iterdir()) == []
