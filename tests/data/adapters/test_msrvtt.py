"""MSR-VTT's official files become canonical data that ingests."""

import json
import os
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from clipbert.data.adapters.msrvtt import import_msrvtt
from clipbert.data.ingest import ingest
from clipbert.data.manifest import read_texts, read_videos
from clipbert.errors import ClipBertError
from clipbert.params import IngestParams

SPLITS = {"video0": "train", "video1": "train", "video2": "validate", "video3": "test"}


def info(splits: dict[str, str] = SPLITS) -> dict[str, Any]:
    names = [(name, number) for name in splits for number in range(3)]
    return {
        "info": {"year": "2016"},
        "videos": [{"video_id": name, "split": split, "category": 4} for name, split in splits.items()],
        "sentences": [
            {"video_id": name, "sen_id": 100 + index, "caption": f"caption {number} of {name}"}
            for index, (name, number) in enumerate(names)
        ],
    }


@pytest.fixture
def source(tmp_path: Path, tiny_video: Callable[..., Path]) -> Path:
    """A folder with videodatainfo.json and four videos, two of them deeper."""
    folder = tmp_path / "source"
    for index, name in enumerate(SPLITS):
        tiny_video(folder / "videos" / ("TestVideo" if index > 1 else "") / f"{name}.mp4", seed=index)
    (folder / "videodatainfo.json").write_text(json.dumps(info()))
    return folder


def rows(path: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def fails(tmp_path: Path, *arguments: Path, **options: Any) -> str:
    annotations, videos = arguments
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ClipBertError) as caught:
        import_msrvtt(annotations, videos, tmp_path / "data", **options)
    assert sorted(tmp_path.rglob("*")) == before
    return str(caught.value)


def test_import(tmp_path: Path, source: Path) -> None:
    data = tmp_path / "data"
    summary = import_msrvtt(source / "videodatainfo.json", source / "videos", data)
    captions = rows(data / "captions.jsonl")
    assert len(captions) == 12
    assert captions[0] == {
        "id": "caption-100",
        "media": "videos/video0.mp4",
        "text": "caption 0 of video0",
        "split": "train",
    }
    assert {row["media"]: row["split"] for row in captions} == {
        "videos/video0.mp4": "train",
        "videos/video1.mp4": "train",
        "videos/video2.mp4": "val",
        "videos/video3.mp4": "test",
    }
    assert (data / "videos" / "video0.mp4").samefile(source / "videos" / "video0.mp4")
    assert summary.lines() == ["videos: 4 (2 train, 1 val, 1 test; 4 hard-linked, 0 copied)", "captions: 12"]
    assert sorted(path.name for path in data.iterdir()) == ["captions.jsonl", "videos"]


def test_imported_data_ingests(tmp_path: Path, source: Path) -> None:
    import_msrvtt(source / "videodatainfo.json", source / "videos", tmp_path / "data")
    ingest(tmp_path / "data", tmp_path / "manifest", IngestParams(workers=1))
    assert read_videos(tmp_path / "manifest")["split"].tolist() == ["train", "train", "val", "test"]
    assert len(read_texts(tmp_path / "manifest")) == 12


def test_fewer_captions_of_test_videos(tmp_path: Path, source: Path) -> None:
    import_msrvtt(source / "videodatainfo.json", source / "videos", tmp_path / "data", captions_per_test_video=1)
    captions = rows(tmp_path / "data" / "captions.jsonl")
    assert len(captions) == 10
    assert [row["text"] for row in captions if row["split"] == "test"] == ["caption 0 of video3"]


def test_zip_and_several_files_in_a_folder(tmp_path: Path, source: Path) -> None:
    official = tmp_path / "official"
    official.mkdir()
    early = {name: split for name, split in SPLITS.items() if split != "test"}
    (official / "train_val_videodatainfo.json").write_text(json.dumps(info(early)))
    with zipfile.ZipFile(official / "test_videodatainfo.json.zip", "w") as archive:
        archive.writestr("test_videodatainfo.json", json.dumps(info({"video3": "test"})))
    import_msrvtt(official / "test_videodatainfo.json.zip", source / "videos", tmp_path / "test")
    assert {row["split"] for row in rows(tmp_path / "test" / "captions.jsonl")} == {"test"}
    summary = import_msrvtt(official, source / "videos", tmp_path / "all")
    assert dict(summary.videos) == {"train": 2, "val": 1, "test": 1}


def test_links_of_the_source_are_followed(tmp_path: Path, source: Path) -> None:
    links = tmp_path / "links"
    links.mkdir()
    (links / "video0.mp4").symlink_to(source / "videos" / "video0.mp4")
    import_msrvtt(source / "videodatainfo.json", links, tmp_path / "data")
    assert not (tmp_path / "data" / "videos" / "video0.mp4").is_symlink()
    assert (tmp_path / "data" / "videos" / "video0.mp4").samefile(source / "videos" / "video0.mp4")


def test_videos_are_copied_across_file_systems(tmp_path: Path, source: Path) -> None:
    elsewhere = Path("/dev/shm")
    if not elsewhere.is_dir() or elsewhere.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("no second file system")
    data = elsewhere / f"clipbert-test-{os.getpid()}"
    try:
        summary = import_msrvtt(source / "videodatainfo.json", source / "videos", data)
        assert summary.copied == 4
        copy = (data / "videos" / "video3.mp4").read_bytes()
        assert copy == (source / "videos" / "TestVideo" / "video3.mp4").read_bytes()
    finally:
        shutil.rmtree(data, ignore_errors=True)


def test_missing_videos_are_named(tmp_path: Path, source: Path) -> None:
    (source / "videos" / "video1.mp4").unlink()
    summary = import_msrvtt(source / "videodatainfo.json", source / "videos", tmp_path / "data")
    assert summary.missing == ["video1"]
    assert "missing videos: 1: video1" in summary.lines()
    assert "videos/video1.mp4" not in {row["media"] for row in rows(tmp_path / "data" / "captions.jsonl")}


def test_questions(tmp_path: Path, source: Path) -> None:
    questions = [
        {"question": "what is it?", "answer": "a bar", "video_id": "video2", "answer_type": "what"},
        {"question": "who?", "answer": "nobody", "video_id": "video99"},
    ]
    (source / "qa.jsonl").write_text("\n".join(json.dumps(row) for row in questions))
    summary = import_msrvtt(source / "videodatainfo.json", source / "videos", tmp_path / "data", qa=source / "qa.jsonl")
    assert rows(tmp_path / "data" / "open_qa.jsonl") == [
        {
            "id": "question-1",
            "question": "what is it?",
            "answer": "a bar",
            "answer_type": "what",
            "media": "videos/video2.mp4",
            "split": "val",
        }
    ]
    assert "questions: 1 (1 left out: their video is missing)" in summary.lines()


def test_data_is_not_overwritten(tmp_path: Path, source: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "mine.txt").write_text("mine")
    text = fails(tmp_path, source / "videodatainfo.json", source / "videos")
    assert f"{tmp_path / 'data'}: is not an empty folder. Move it away" in text


def test_no_video_found(tmp_path: Path, source: Path) -> None:
    (source / "empty").mkdir()
    text = fails(tmp_path, source / "videodatainfo.json", source / "empty")
    assert "none of the 4 videos" in text
    assert "expected files such as video0.mp4" in text


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"{", "cannot be read as JSON"),
        (b'{"videos": []}', "not MSR-VTT's layout (KeyError: 'sentences')"),
        (b"[]", "not MSR-VTT's layout"),
        (b'{"videos": [], "sentences": []}', "holds 0 videos and 0 captions; nothing to import"),
        (
            b'{"videos": [{"video_id": "video0", "split": "dev"}], "sentences": []}',
            "video0 has split 'dev'; expected one of train, validate, test",
        ),
    ],
)
def test_wrong_annotations(tmp_path: Path, source: Path, content: bytes, said: str) -> None:
    (source / "wrong.json").write_bytes(content)
    text = fails(tmp_path, source / "wrong.json", source / "videos")
    assert str(source / "wrong.json") in text
    assert said in text


def test_missing_files(tmp_path: Path, source: Path) -> None:
    assert "gone.json: no such file" in fails(tmp_path, source / "gone.json", source / "videos")
    assert "gone: no such folder" in fails(tmp_path, source / "videodatainfo.json", source / "gone")
    (source / "gone.zip").write_bytes(b"no zip")
    assert "gone.zip: cannot be read" in fails(tmp_path, source / "gone.zip", source / "videos")


def test_wrong_questions(tmp_path: Path, source: Path) -> None:
    (source / "qa.jsonl").write_text('{"question": "what?"}\n')
    text = fails(tmp_path, source / "videodatainfo.json", source / "videos", qa=source / "qa.jsonl")
    assert f"{source / 'qa.jsonl'}:1: not a question of MSRVTT-QA (KeyError: 'video_id')" in text


@pytest.mark.pipeline
def test_real_videos(tmp_path: Path) -> None:
    shared = os.environ.get("CLIPBERT_SHARED_DATA")
    if not shared or not (Path(shared) / "msrvtt_mini").is_dir():
        pytest.skip("CLIPBERT_SHARED_DATA names no folder with msrvtt_mini")
    real = Path(shared) / "msrvtt_mini"
    asked = sorted({json.loads(line)["video_id"] for line in (real / "qa_val.jsonl").read_text().splitlines()})
    names = tmp_path / "videos"
    names.mkdir()
    for name in asked[:20]:
        (names / f"{name}.mp4").symlink_to(real / "videos" / f"{name}.mp4")
    summary = import_msrvtt(real / "videodatainfo.json", names, tmp_path / "data", qa=real / "qa_val.jsonl")
    assert dict(summary.videos) == {"val": 20}
    assert (summary.captions, len(summary.missing)) == (400, 790)
    assert summary.questions > 20
    found = ingest(tmp_path / "data", tmp_path / "manifest", IngestParams())
    assert found.media == {"video": 20}
    assert not found.quarantined
