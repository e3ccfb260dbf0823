"""MSR-VTT's official files become canonical data that ingests."""

import json
import os
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from clipbert.config.data import IngestParams
from clipbert.data.importers.base import Source
from clipbert.data.importers.datasets.msrvtt import import_msrvtt
from clipbert.data.ingest.stage import ingest
from clipbert.data.manifest import read_texts, read_videos
from clipbert.errors import ClipBertError

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
def original(tmp_path: Path, tiny_video: Callable[..., Path]) -> Path:
    """A folder with videodatainfo.json and four videos, two of them deeper."""
    folder = tmp_path / "source"
    for index, name in enumerate(SPLITS):
        tiny_video(folder / "videos" / ("TestVideo" if index > 1 else "") / f"{name}.mp4", seed=index)
    (folder / "videodatainfo.json").write_text(json.dumps(info()))
    return folder


def rows(path: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def fails(tmp_path: Path, annotations: Path, videos: Path, **options: Any) -> str:
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ClipBertError) as caught:
        import_msrvtt(annotations, Source(videos, tmp_path / "data"), **options)
    assert sorted(tmp_path.rglob("*")) == before
    return str(caught.value)


def test_import(tmp_path: Path, original: Path) -> None:
    data = tmp_path / "data"
    summary = import_msrvtt(original / "videodatainfo.json", Source(original / "videos", data))
    captions = rows(data / "captions.jsonl")
    assert len(captions) == 12
    assert captions[0] == {
        "id": "caption-video0-100",
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
    assert (data / "videos" / "video0.mp4").samefile(original / "videos" / "video0.mp4")
    assert summary.lines()[:3] == [
        "videos: 4 (2 train, 1 val, 1 test; 4 hard-linked, 0 copied)",
        "captions: 12",
        "train: 2 media, 6 texts in these files (published: 6513 media, 130260 texts)",
    ]
    assert sorted(path.name for path in data.iterdir()) == ["captions.jsonl", "videos"]


@pytest.mark.slow
def test_imported_data_ingests(tmp_path: Path, original: Path) -> None:
    import_msrvtt(original / "videodatainfo.json", Source(original / "videos", tmp_path / "data"))
    ingest(tmp_path / "data", tmp_path / "manifest", IngestParams(num_workers=1))
    assert read_videos(tmp_path / "manifest")["split"].tolist() == ["train", "train", "val", "test"]
    assert len(read_texts(tmp_path / "manifest")) == 12


def test_fewer_captions_of_test_videos(tmp_path: Path, original: Path) -> None:
    import_msrvtt(
        original / "videodatainfo.json", Source(original / "videos", tmp_path / "data"), captions_per_test_video=1
    )
    captions = rows(tmp_path / "data" / "captions.jsonl")
    assert len(captions) == 10
    assert [row["text"] for row in captions if row["split"] == "test"] == ["caption 0 of video3"]


def test_zip_and_several_files_in_a_folder(tmp_path: Path, original: Path) -> None:
    official = tmp_path / "official"
    official.mkdir()
    early = {name: split for name, split in SPLITS.items() if split != "test"}
    (official / "train_val_videodatainfo.json").write_text(json.dumps(info(early)))
    with zipfile.ZipFile(official / "test_videodatainfo.json.zip", "w") as archive:
        archive.writestr("test_videodatainfo.json", json.dumps(info({"video3": "test"})))
    import_msrvtt(official / "test_videodatainfo.json.zip", Source(original / "videos", tmp_path / "test"))
    assert {row["split"] for row in rows(tmp_path / "test" / "captions.jsonl")} == {"test"}
    summary = import_msrvtt(official, Source(original / "videos", tmp_path / "all"))
    assert dict(summary.splits()) == {"train": 2, "val": 1, "test": 1}


def test_links_inside_the_source_are_followed(tmp_path: Path, original: Path) -> None:
    links = original / "links"
    links.mkdir()
    (links / "video0.mp4").symlink_to(original / "videos" / "video0.mp4")
    import_msrvtt(original / "videodatainfo.json", Source(original, tmp_path / "data"))
    assert not (tmp_path / "data" / "videos" / "video0.mp4").is_symlink()
    assert (tmp_path / "data" / "videos" / "video0.mp4").samefile(original / "videos" / "video0.mp4")


def test_videos_are_copied_across_file_systems(tmp_path: Path, original: Path) -> None:
    elsewhere = Path("/dev/shm")
    if not elsewhere.is_dir() or elsewhere.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("no second file system")
    data = elsewhere / f"clipbert-test-{os.getpid()}"
    try:
        summary = import_msrvtt(original / "videodatainfo.json", Source(original / "videos", data))
        assert summary.copied == 4
        copy = (data / "videos" / "video3.mp4").read_bytes()
        assert copy == (original / "videos" / "TestVideo" / "video3.mp4").read_bytes()
    finally:
        shutil.rmtree(data, ignore_errors=True)


def test_missing_videos_are_named(tmp_path: Path, original: Path) -> None:
    (original / "videos" / "video1.mp4").unlink()
    summary = import_msrvtt(original / "videodatainfo.json", Source(original / "videos", tmp_path / "data"))
    assert summary.missing == {"video1": ("train", 3)}
    assert "captions: 9 (3 more left out: their media is missing)" in summary.lines()
    assert "missing media: 1 of 4: video1 (all in missing_media.txt)" in summary.lines()
    assert (tmp_path / "data" / "missing_media.txt").read_text() == "video1\ttrain\t3 texts\n"
    assert "videos/video1.mp4" not in {row["media"] for row in rows(tmp_path / "data" / "captions.jsonl")}


def test_questions(tmp_path: Path, original: Path) -> None:
    questions = [
        {"question": "what is it?", "answer": "a bar", "video_id": "video2", "answer_type": "what"},
        {"question": "who?", "answer": "nobody", "video_id": "video99"},
    ]
    (original / "qa.jsonl").write_text("\n".join(json.dumps(row) for row in questions))
    summary = import_msrvtt(
        original / "videodatainfo.json", Source(original / "videos", tmp_path / "data"), qa=original / "qa.jsonl"
    )
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
    assert "questions: 1" in summary.lines()
    assert "left out: 1 with a video that is not in the annotations" in summary.lines()


def test_data_is_not_overwritten(tmp_path: Path, original: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "mine.txt").write_text("mine")
    text = fails(tmp_path, original / "videodatainfo.json", original / "videos")
    assert f"{tmp_path / 'data'}: is not an empty folder. Move it away" in text


def test_no_video_found(tmp_path: Path, original: Path) -> None:
    other = original / "other" / "something.mp4"
    other.parent.mkdir()
    text = fails(tmp_path, original / "videodatainfo.json", other.parent)
    assert "other: an empty folder" in text
    other.write_bytes(b"a video of another set")
    text = fails(tmp_path, original / "videodatainfo.json", other.parent)
    assert "none of the 4 media that the annotations name is there" in text
    assert "expected files such as video0" in text


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"{", "not valid JSON"),
        (b'{"videos": []}', "has no 'sentences', only videos"),
        (b'{"video": []}', "has no 'videos' (did you mean video?), only video"),
        (b"[]", "holds no object with 'videos'"),
        (b'{"videos": [7], "sentences": []}', "item 1: 7 is not an object; expected"),
        (b'{"videos": [], "sentences": []}', "holds no videos; nothing to import"),
        (
            b'{"videos": [{"video_id": "video0", "split": "dev"}], "sentences": []}',
            "video0 has split 'dev'; expected one of train, validate, test",
        ),
    ],
)
def test_wrong_annotations(tmp_path: Path, original: Path, content: bytes, said: str) -> None:
    (original / "wrong.json").write_bytes(content)
    text = fails(tmp_path, original / "wrong.json", original / "videos")
    assert str(original / "wrong.json") in text
    assert said in text


def test_missing_files(tmp_path: Path, original: Path) -> None:
    assert "gone.json: no such file" in fails(tmp_path, original / "gone.json", original / "videos")
    assert "gone: no such folder" in fails(tmp_path, original / "videodatainfo.json", original / "gone")
    (original / "gone.zip").write_bytes(b"no zip")
    assert "gone.zip: cannot be read" in fails(tmp_path, original / "gone.zip", original / "videos")


def test_wrong_questions(tmp_path: Path, original: Path) -> None:
    (original / "qa.jsonl").write_text('{"question": "what?"}\n')
    text = fails(tmp_path, original / "videodatainfo.json", original / "videos", qa=original / "qa.jsonl")
    assert f"{original / 'qa.jsonl'}: line 1: no video_id, only question" in text


def test_one_sentence_a_video_of_1ka(tmp_path: Path, original: Path) -> None:
    pairs = tmp_path / "pairs.csv"
    pairs.write_text('key,vid_key,video_id,sentence\nret0,msr2,video2,"a bar, moving"\n')
    everything = original / "videodatainfo.json", original / "videos"
    assert "name the 1kA file too, --pairs" in fails(tmp_path, *everything, split="9k")
    for split, trained in (("9k", ["video0", "video1", "video3"]), ("7k", ["video0", "video1"])):
        data = tmp_path / split
        import_msrvtt(everything[0], Source(everything[1], data), split, pairs)
        captions = rows(data / "captions.jsonl")
        assert [(row["id"], row["text"], row["media"]) for row in captions if row["split"] == "test"] == [
            ("caption-ret0", "a bar, moving", "videos/video2.mp4")
        ]
        assert sorted({row["media"] for row in captions if row["split"] == "train"}) == [
            f"videos/{name}.mp4" for name in trained
        ]


def test_real_annotations(tmp_path: Path, real: Path, named: Callable[..., Path]) -> None:
    videos = named((f"video{number}" for number in range(7010, 10_000)), ".mp4")
    official = import_msrvtt(real / "msrvtt", Source(videos, tmp_path / "official"))
    assert dict(official.written) == {("caption", "test"): 59_800}
    assert "test: 2990 media, 59800 texts, as published" in official.lines()
    full = import_msrvtt(real / "msrvtt", Source(videos, tmp_path / "1kA"), "1kA")
    assert dict(full.written) == {("caption", "train"): 39_800, ("caption", "test"): 1_000}
    assert full.splits() == {"train": 1_990, "test": 1_000}
    assert "train: 1990 media, 39800 texts in these files (published: 9000 media, 180000 texts)" in full.lines()
    assert "test: 1000 media, 1000 texts, as published" in full.lines()
    seven = import_msrvtt(real / "msrvtt", Source(videos, tmp_path / "7k"), "7k")
    assert dict(seven.written) == {("caption", "test"): 1_000}


@pytest.mark.slow
@pytest.mark.pipeline
def test_real_videos(tmp_path: Path, shared_data: Path) -> None:
    mini = shared_data / "msrvtt_mini"
    if not mini.is_dir():
        pytest.skip("shared/data holds no msrvtt_mini")
    asked = sorted({json.loads(line)["video_id"] for line in (mini / "qa_val.jsonl").read_text().splitlines()})
    names = tmp_path / "videos"
    names.mkdir()
    for name in asked[:20]:
        shutil.copy(mini / "videos" / f"{name}.mp4", names)
    source = Source(names, tmp_path / "data")
    summary = import_msrvtt(mini / "videodatainfo.json", source, qa=mini / "qa_val.jsonl")
    assert dict(summary.splits()) == {"val": 20}
    assert (summary.texts("caption"), len(summary.missing)) == (400, 790)
    assert summary.texts("open_qa") > 20
    found = ingest(tmp_path / "data", tmp_path / "manifest", IngestParams())
    assert found.media == {"video": 20}
    assert not found.quarantined
