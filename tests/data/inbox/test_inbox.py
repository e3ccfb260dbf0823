"""One pass over an inbox: what is merged, refused, left and already there."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from arriving import ArrivingData

from clipbert.data.inbox import run
from clipbert.errors import ClipBertError

pytestmark = pytest.mark.slow  # files are probed in processes

Make = Callable[..., Path]


@pytest.fixture
def arriving(tmp_path: Path, tiny_data: Make) -> ArrivingData:
    """Four videos in data/, and nothing in the inbox. Tiny videos look alike, so leaks are allowed."""
    tiny_data(tmp_path / "data")
    return ArrivingData(tmp_path, severity={"near_duplicates": "warn"})


def test_bad_files_and_rows_are_set_aside_with_reasons_and_block_nothing(
    arriving: ArrivingData, tiny_video: Make
) -> None:
    before = arriving.captions()
    arriving.video(tiny_video)
    arriving.row(split="train")
    arriving.row(id="second", text="also new", media="videos/0.mp4")
    (arriving.inbox / "videos/broken.mp4").write_bytes(b"no video")
    arriving.row(id="b", media="videos/broken.mp4")
    (arriving.inbox / "videos/copy.mp4").write_bytes((arriving.data / "videos/1.mp4").read_bytes())
    arriving.row(id="copy", media="videos/copy.mp4", name="captions-tuesday.jsonl")
    arriving.row(id="c0", text="another text")
    arriving.row(id="wrong", split="training")
    arriving.row(id="long", text="word " * 500)
    arriving.row(id="other split", media="videos/3.mp4", split="train")
    arriving.row(id="outside", media="../secret.mp4")
    (arriving.inbox / "open_qa.jsonl").write_text("{not json\n")
    (arriving.inbox / "notes.csv").write_text("a,b\n")

    result = arriving.collect()

    assert arriving.captions() == [
        *before,
        {"id": "new", "media": "videos/new.mp4", "text": "something new", "split": "train"},
        {"id": "second", "media": "videos/0.mp4", "text": "also new", "split": "train"},
    ]
    assert sorted(path.name for path in (arriving.data / "videos").iterdir()) == [
        *(f"{number}.mp4" for number in range(4)),
        "new.mp4",
    ]
    assert not (arriving.data / "open_qa.jsonl").exists()
    reasons = {(reason["file"], reason["line"]): (reason["code"], reason["reason"]) for reason in arriving.reasons()}
    assert reasons["videos/broken.mp4", None][0] == "unreadable"
    assert reasons["captions.jsonl", 3][0] == "media"
    assert reasons["videos/copy.mp4", None] == ("duplicate", "the same bytes as videos/1.mp4")
    assert reasons["captions-tuesday.jsonl", 1][1].endswith("was refused: the same bytes as videos/1.mp4")
    assert reasons["captions.jsonl", 4] == ("id_used", "id 'c0' is the id of another text in data/captions.jsonl")
    assert reasons["captions.jsonl", 5] == ("line", 'split is "training"; expected one of train, val, test')
    assert reasons["captions.jsonl", 6] == ("text_length", "fails the check text_length: text_chars is 2499")
    assert reasons["captions.jsonl", 7] == (
        "split",
        "split is 'train', but the texts of videos/3.mp4 in data/ have 'test'",
    )
    assert "leads out of data/ with '..'" in reasons["captions.jsonl", 8][1]
    assert reasons["open_qa.jsonl", 1][1].startswith("not valid JSON")
    assert len(reasons) == 10
    assert all(reason["remedy"] for reason in arriving.reasons())
    assert arriving.refused() == [
        "captions-tuesday.jsonl",
        "captions.jsonl",
        "open_qa.jsonl",
        "reasons.json",
        "videos/broken.mp4",
        "videos/copy.mp4",
    ]
    assert arriving.left() == ["notes.csv"]
    text = "\n".join(result.lines())
    assert "merged into data/: 1 media (1 train); texts: 2 caption" in text
    assert "videos/copy.mp4: the same bytes as videos/1.mp4 (duplicate)" in text
    assert "notes.csv: not an annotation file" in text
    merged = [json.loads(path.read_text()) for path in arriving.places.merged.iterdir()]
    assert [(record["media"], record["texts"], record["refused"]) for record in merged] == [(1, {"caption": 2}, 10)]
    assert not (arriving.places.work / "staging").exists()
    assert arriving.collect().lines() == ["nothing new to merge", *result.lines()[-2:]]


def test_incomplete_files_are_left_and_merged_later(arriving: ArrivingData, tiny_video: Make) -> None:
    names = ["a.mp4", "b.mp4.part", ".c.mp4.x1y2", "d/e.mp4", "f.mp4"]
    for seed, name in enumerate(names, start=60):
        whole = arriving.video(tiny_video, f"videos/{Path(name).parent}/whole.mp4", seed=seed)
        whole.rename(arriving.inbox / "videos" / name)
    for marker in ("videos/a.mp4.uploading", "videos/d/.uploading"):
        (arriving.inbox / marker).touch()
    for name in ("a", "d/e", "f"):
        arriving.row(id=name, media=f"videos/{name}.mp4", split="train")
    result = arriving.collect(stable_s=3600.0)
    assert result.plan is None
    assert result.waiting["captions.jsonl"].startswith("incomplete: it changed ")
    assert result.waiting["videos/f.mp4"].startswith("incomplete: it changed ")

    result = arriving.collect()
    assert [row["id"] for row in arriving.captions()[4:]] == ["f"]
    assert result.waiting["videos/a.mp4"] == "incomplete: videos/a.mp4.uploading exists"
    assert result.waiting["videos/d/e.mp4"] == "incomplete: videos/d/.uploading exists"
    assert result.waiting["videos/b.mp4.part"] == "incomplete: a temporary name"
    assert result.waiting["captions.jsonl"] == "line 1: videos/a.mp4 is incomplete: videos/a.mp4.uploading exists"
    assert "captions.jsonl" in arriving.left()

    for marker in ("videos/a.mp4.uploading", "videos/d/.uploading"):
        (arriving.inbox / marker).unlink()
    result = arriving.collect()
    assert [row["id"] for row in arriving.captions()[4:]] == ["f", "a", "d/e"]
    assert result.present_rows == 1
    assert arriving.left() == ["videos/.c.mp4.x1y2", "videos/b.mp4.part"]


def test_rows_wait_for_media_and_media_for_rows_until_the_limit(
    arriving: ArrivingData, tiny_video: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    arriving.video(tiny_video, "videos/alone.mp4")
    arriving.row(media="videos/late.mp4", split="train")
    arriving.row(id="bad", text="")
    result = arriving.collect()
    assert [(reason["line"], reason["reason"]) for reason in arriving.reasons()] == [(2, "text is empty")]
    assert result.waiting == {
        "captions.jsonl": "line 1: media 'videos/late.mp4' has not arrived",
        "videos/alone.mp4": "no row names it yet",
    }
    assert arriving.collect().plan is None, "the bad line is not refused again"
    now = run.time.time()
    monkeypatch.setattr(run.time, "time", lambda: now + 25 * 3600)
    result = arriving.collect()
    assert result.plan is not None
    assert {(reason["file"], reason["code"]) for reason in result.plan["refused"]} == {
        ("captions.jsonl", "missing"),
        ("videos/alone.mp4", "no_text"),
    }
    assert arriving.left() == []


def test_what_is_there_already_is_removed_from_the_inbox(arriving: ArrivingData) -> None:
    (arriving.inbox / "videos").mkdir()
    (arriving.inbox / "videos/0.mp4").write_bytes((arriving.data / "videos/0.mp4").read_bytes())
    (arriving.inbox / "videos/1.mp4").write_bytes(b"other bytes")
    arriving.row(id="c0", media="videos/0.mp4", text="a bar 0")
    arriving.row(id="c0", media="videos/0.mp4", text="a bar 0", split="train")
    before = (arriving.data / "captions.jsonl").read_bytes(), (arriving.data / "videos/1.mp4").read_bytes()
    result = arriving.collect()
    assert (result.present_media, result.present_rows) == (1, 2)
    assert [reason["code"] for reason in arriving.reasons()] == ["other_bytes"]
    assert arriving.left() == []
    assert before == ((arriving.data / "captions.jsonl").read_bytes(), (arriving.data / "videos/1.mp4").read_bytes())


def test_a_batch_that_fails_as_a_whole_stays_in_the_inbox(arriving: ArrivingData, tiny_video: Make) -> None:
    from clipbert.config.data import ValidateParams
    from clipbert.data.manifest import read_texts, read_videos
    from clipbert.data.validation import drift

    arriving.video(tiny_video)
    arriving.row(split="train")
    arriving.collect(val=0.0)
    manifest = arriving.places.manifest  # of the four videos
    baseline = arriving.root / "artifacts/validation/baseline"
    baseline.mkdir(parents=True)
    drift.take(manifest, read_videos(manifest), read_texts(manifest)).write(baseline / drift.LAST)
    severity = {"near_duplicates": "warn", "drift": "fail"}
    arriving.limits = ValidateParams.model_validate({"severity": severity, "drift": {"max_new": 0.3}})
    before = arriving.captions()
    arriving.video(tiny_video, "videos/more.mp4", seed=5)
    arriving.row(id="more", media="videos/more.mp4", split="train")
    with pytest.raises(ClipBertError, match="as a whole fails a check") as caught:
        arriving.collect()
    assert "drift: drift" in str(caught.value)
    assert "measure=new" in str(caught.value)
    assert arriving.captions() == before
    assert arriving.left() == ["captions.jsonl", "videos/more.mp4"]


def test_an_empty_project_starts_from_its_inbox(tmp_path: Path, tiny_data: Make) -> None:
    arriving = ArrivingData(tmp_path, severity={"near_duplicates": "warn"})
    arriving.inbox.rmdir()
    tiny_data(arriving.inbox)
    assert arriving.collect().lines()[0] == ("merged into data/: 4 media (1 test, 2 train, 1 val); texts: 4 caption")
    assert [row["id"] for row in arriving.captions()] == ["c0", "c1", "c2", "c3"]


def test_the_inbox_must_be_a_folder(tmp_path: Path) -> None:
    arriving = ArrivingData(tmp_path)
    with pytest.raises(ClipBertError, match=r"inbox.source = arrivals: .*/arrivals is not a folder. Create it"):
        arriving.collect(source="arrivals")
