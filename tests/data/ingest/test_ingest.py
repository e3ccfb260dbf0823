"""The whole stage on tiny real files: what it writes, and that bad input leaves nothing behind."""

import errno
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from canonical_data import LENIENT, PARAMS, caption, quarantine
from PIL import Image

from clipbert.config.data import IngestParams
from clipbert.data.ingest.stage import ingest
from clipbert.data.manifest import TEXTS_SCHEMA, read_texts, read_videos
from clipbert.errors import ClipBertError
from clipbert.files.atomic import sha256_file

pytestmark = pytest.mark.slow

MakeData = Callable[..., Path]
MakeVideo = Callable[..., Path]


def fails(data: Path, params: IngestParams = PARAMS) -> str:
    """The message of a failing ingest, which leaves the folder of its output as it was."""
    parent = data.parent / "artifacts"
    parent.mkdir()
    with pytest.raises(ClipBertError) as caught:
        ingest(data, parent / "manifest", params, memory=data.parent / "probes.sqlite")
    assert list(parent.iterdir()) == []
    return str(caught.value)


def test_manifest(tmp_path: Path, data: Path) -> None:
    out = tmp_path / "artifacts" / "manifest"
    summary = ingest(data, out, PARAMS)
    assert sorted(path.name for path in out.iterdir()) == [
        "checksums.sha256",
        "dropped_texts.json",
        "quarantine.jsonl",
        "texts.parquet",
        "videos.parquet",
    ]
    videos, texts = read_videos(out), read_texts(out)
    assert videos["media"].tolist() == [f"videos/{index}.mp4" for index in range(4)]
    assert videos["split"].tolist() == ["train", "train", "val", "test"]
    assert videos["sha256"].tolist() == [sha256_file(data / media) for media in videos["media"]]
    assert texts["id"].tolist() == ["c0", "c1", "c2", "c3"]
    assert texts["text"][3] == "a bar 3"
    assert quarantine(out) == {}
    assert json.loads((out / "dropped_texts.json").read_text()) == {"by_reason": {}, "examples": [], "total": 0}
    assert summary.lines() == [
        f"media: 4 video (0.1 min, {sum(videos['bytes']) / 1e6:.1f} MB); 2 train, 1 val, 1 test",
        "decoders: 4 decord",
        "texts: 4 caption",
    ]


def test_same_input_same_bytes_whatever_the_workers(tmp_path: Path, data: Path) -> None:
    (data / "videos" / "broken.mp4").write_bytes(b"x")
    hashes = []
    for name, workers in (("a", 1), ("b", 2)):
        ingest(data, tmp_path / name, IngestParams(num_workers=workers, max_quarantined_fraction=0.5))
        hashes.append([sha256_file(path) for path in sorted((tmp_path / name).iterdir())])
    assert hashes[0] == hashes[1]


def test_all_kinds_of_media_and_texts(tmp_path: Path, data: Path, tiny_video: MakeVideo) -> None:
    tiny_video(data / "videos" / "deep" / "clip.avi", codec="mpeg4")
    (data / "images").mkdir()
    Image.new("RGB", (40, 30)).save(data / "images" / "a.png")
    common = {"media": "images/a.png", "question": "what?", "split": "train"}
    (data / "open_qa.jsonl").write_text(json.dumps({"id": "q", "answer": "red", "answer_type": "colour", **common}))
    choice = {"id": "m", "options": ["a", "b"], "answer": 1, **common}
    (data / "multiple_choice.jsonl").write_text(json.dumps(choice))
    summary = ingest(data, tmp_path / "out", PARAMS)
    assert dict(summary.media) == {"video": 5, "image": 1}
    assert dict(summary.texts) == {"caption": 4, "open_qa": 1, "multiple_choice": 1}
    assert dict(summary.decoders) == {"decord": 4, "pyav": 1, "pil": 1}
    videos = read_videos(tmp_path / "out").set_index("media")
    assert videos.loc["images/a.png", "split"] == "train"
    assert videos["split"].isna().sum() == 1
    assert "1 without a text" in summary.lines()[0]
    texts = read_texts(tmp_path / "out").set_index("kind")
    assert texts.loc["open_qa", "answer"] == "red"
    assert texts.loc["multiple_choice", "options"] == ["a", "b"]
    assert texts.loc["multiple_choice", "answer_index"] == 1
    assert texts.loc[["open_qa", "multiple_choice"], "media_kind"].tolist() == ["image", "image"]
    assert set(texts.loc["caption", "media_kind"]) == {"video"}


def test_split_of_a_video_in_two_splits_is_the_later(tmp_path: Path, data: Path) -> None:
    caption(data, split="test")
    ingest(data, tmp_path / "out", PARAMS)
    assert read_videos(tmp_path / "out")["split"].tolist() == ["test", "train", "val", "test"]
    assert read_texts(tmp_path / "out")["split"].tolist() == ["train", "train", "val", "test", "test"]


def copy(data: Path, name: str, split: str) -> None:
    """A file with the bytes of 0.mp4 (train) and a caption of its own."""
    (data / "videos" / name).write_bytes((data / "videos" / "0.mp4").read_bytes())
    caption(data, id=name, media=f"videos/{name}", text="another bar", split=split)


def test_a_copy_in_the_same_split_stands_aside_and_its_texts_go_to_the_first(tmp_path: Path, data: Path) -> None:
    copy(data, "copy.mp4", "train")
    summary = ingest(data, tmp_path / "out", PARAMS)  # duplicates count as no loss: 1 of 5 would fail the stage
    assert quarantine(tmp_path / "out") == {"videos/copy.mp4": "duplicate"}
    assert len(read_videos(tmp_path / "out")) == 4
    texts = read_texts(tmp_path / "out").set_index("id")
    assert texts.loc["copy.mp4", "media"] == "videos/0.mp4"
    assert "texts of duplicates, given to the file that stays: 1" in summary.lines()


def test_a_copy_in_another_split_stays_for_the_gate_to_see(tmp_path: Path, data: Path) -> None:
    copy(data, "copy.mp4", "test")
    ingest(data, tmp_path / "out", PARAMS)
    videos = read_videos(tmp_path / "out").set_index("media")
    assert videos.loc["videos/copy.mp4", "sha256"] == videos.loc["videos/0.mp4", "sha256"]


def test_copies_are_kept_on_demand(tmp_path: Path, data: Path) -> None:
    copy(data, "copy.mp4", "train")
    ingest(data, tmp_path / "out", IngestParams(num_workers=1, duplicates="keep"))
    videos = read_videos(tmp_path / "out")
    assert len(videos) == 5
    assert videos["sha256"].nunique() == 4


def test_quarantine_and_dropped_texts(tmp_path: Path, data: Path, tiny_video: MakeVideo) -> None:
    (data / "videos" / "empty.mp4").touch()
    (data / "videos" / "text.mp4").write_text("no video")
    whole = tiny_video(data / "videos" / "cut.mkv", frames=40, options={"g": "4"}).read_bytes()
    (data / "videos" / "cut.mkv").write_bytes(whole[: len(whole) // 2])
    for number, media in enumerate(["videos/cut.mkv", "videos/empty.mp4", "videos/gone.mp4", "videos/gone.mp4"]):
        caption(data, id=f"dropped{number}", media=media)
    summary = ingest(data, tmp_path / "out", LENIENT)
    assert quarantine(tmp_path / "out") == {
        "videos/cut.mkv": "truncated",
        "videos/empty.mp4": "unreadable",
        "videos/text.mp4": "unreadable",
    }
    dropped = json.loads((tmp_path / "out" / "dropped_texts.json").read_text())
    assert dropped["total"] == 4
    assert dropped["by_reason"] == {
        "media missing": 2,
        "media quarantined: truncated": 1,
        "media quarantined: unreadable": 1,
    }
    assert dropped["examples"][0] == {
        "file": "captions.jsonl",
        "line": 5,
        "id": "dropped0",
        "media": "videos/cut.mkv",
        "reason": "media quarantined: truncated",
    }
    assert len(read_texts(tmp_path / "out")) == 4
    lines = summary.lines()
    assert "quarantined: 1 truncated, 2 unreadable" in lines
    assert any(line.startswith("texts dropped: 2 media missing, 1 media quarantined: truncated") for line in lines)


def test_only_twenty_examples_of_dropped_texts(tmp_path: Path, data: Path) -> None:
    for number in range(25):
        caption(data, id=f"dropped{number}", media="videos/gone.mp4")
    ingest(data, tmp_path / "out", PARAMS)
    dropped = json.loads((tmp_path / "out" / "dropped_texts.json").read_text())
    assert (dropped["total"], len(dropped["examples"])) == (25, 20)


def test_a_new_run_replaces_the_old_one(tmp_path: Path, data: Path) -> None:
    ingest(data, tmp_path / "out", PARAMS)
    (data / "videos" / "1.mp4").unlink()
    summary = ingest(data, tmp_path / "out", PARAMS)
    assert dict(summary.dropped_texts) == {"media missing": 1}
    assert len(read_videos(tmp_path / "out")) == 3


def test_a_failing_run_keeps_the_old_one(tmp_path: Path, data: Path) -> None:
    ingest(data, tmp_path / "out", PARAMS)
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    (data / "videos" / "1.mp4").write_text("no video")
    with pytest.raises(ClipBertError):
        ingest(data, tmp_path / "out", PARAMS)
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "out", "probes"]


def test_missing_data(tmp_path: Path) -> None:
    text = fails(tmp_path / "data")
    assert f"{tmp_path / 'data'}: no such folder" in text
    assert "clipbert sample-data" in text


def test_empty_data(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    assert "no annotation file; expected at least one of captions.jsonl" in fails(tmp_path / "data")


def test_no_media(data: Path) -> None:
    for path in (data / "videos").iterdir():
        path.unlink()
    text = fails(data)
    assert "no video or image in it. Put some below" in text
    assert ".mp4" in text


def test_no_text(data: Path) -> None:
    (data / "captions.jsonl").write_text("\n\n")
    assert f"{data / 'captions.jsonl'}: no text in it" in fails(data)


def test_wrong_line(data: Path) -> None:
    caption(data, split="dev")
    text = fails(data)
    assert f'{data / "captions.jsonl"}:5: split is "dev"; expected one of train, val, test' in text
    assert "nothing was written" in text


def test_too_many_in_quarantine(data: Path) -> None:
    (data / "videos" / "broken.mp4").write_text("no video")
    text = fails(data)
    assert "1 of 5 media files (20.0%) cannot be used, more than ingest.max_quarantined_fraction = 0.05" in text
    assert "  videos/broken.mp4: unreadable (not a video or its index is missing" in text


def test_no_media_left(data: Path) -> None:
    for path in (data / "videos").iterdir():
        path.write_text("no video")
    text = fails(data, IngestParams(num_workers=1, max_quarantined_fraction=1.0))
    assert "none of its 4 media files can be used:" in text
    assert "videos/3.mp4: unreadable" in text


def test_no_text_left(data: Path) -> None:
    (data / "captions.jsonl").write_text("")
    caption(data, media="0.mp4")
    text = fails(data)
    assert "no text is left" in text
    assert f"{data / 'captions.jsonl'}:1: 0.mp4: media missing" in text


def test_a_probe_over_its_time_is_killed(tmp_path: Path, tiny_data: MakeData) -> None:
    data = tiny_data(tmp_path / "data", train=1, val=0, test=0)
    text = fails(data, IngestParams(num_workers=1, timeout_s=1e-6))
    assert "videos/0.mp4: timeout (" in text
    assert "raise ingest.timeout_s" in text


def test_disk_full(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("clipbert.data.manifest.pq.ParquetWriter.write_table", full)
    assert "no space left on the device while writing; nothing was changed" in fails(data)


def test_segments_are_columns_of_the_texts(tmp_path: Path, data: Path) -> None:
    plain = tmp_path / "plain" / "manifest"
    ingest(data, plain, PARAMS)
    assert read_texts(plain).columns.tolist() == TEXTS_SCHEMA.names
    caption(data, id="part", media="videos/0.mp4", split="train", start_s=0.5, end_s=1.5)
    caption(data, id="rest", media="videos/0.mp4", split="train", start_s=1)
    out = tmp_path / "artifacts" / "manifest"
    summary = ingest(data, out, PARAMS, memory=tmp_path / "plain" / "probes.sqlite")
    assert "texts about a segment of their video: 2" in summary.lines()
    texts = read_texts(out).set_index("id")
    assert texts.loc["part", ["start_s", "end_s"]].tolist() == [0.5, 1.5]
    assert texts.loc["rest", "start_s"] == 1.0
    assert texts["end_s"].isna().sum() == 5
    assert (out / "videos.parquet").read_bytes() == (plain / "videos.parquet").read_bytes()
    assert (texts.loc["part", "media"], texts.loc["part", "split"]) == ("videos/0.mp4", "train")
