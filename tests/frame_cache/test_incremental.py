"""Whatever happened to data/ and whoever was killed: the cache is byte for byte that of a full build."""

import json
import os
import random
import shutil
from pathlib import Path

import pandas as pd
import pytest
from numbered_videos import PARAMS, number_of, numbered, write_manifest, write_video

from clipbert.errors import ClipBertError
from clipbert.frame_cache import FrameCache
from clipbert.frame_cache.build import build_cache
from clipbert.frame_cache.index import Index
from clipbert.tasks.examples import texts_with_frames

pytestmark = pytest.mark.slow

MORE = PARAMS.model_copy(update={"shard_mb": 0.02})


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def videos(tmp_path_factory) -> list[Path]:
    """Short videos to take from; not to be changed."""
    folder = tmp_path_factory.mktemp("videos")
    return [
        write_video(folder / f"{number}.mp4", [numbered(10 * number + i) for i in range(6 + number % 5)])
        for number in range(24)
    ]


def build(root: Path, out: str = "frames", **arguments):
    manifest = write_manifest(root / "data", root / "manifest")
    params = MORE.model_copy(update=arguments.pop("changes", {}))
    return build_cache(root / "data", manifest, root / out, params, workers=1, **arguments)


@pytest.mark.parametrize("seed", range(3))
def test_any_sequence_of_changes_equals_a_full_build(videos, tmp_path, seed):
    choose = random.Random(seed)
    folder = tmp_path / "data" / "videos"
    folder.mkdir(parents=True)

    def add() -> None:
        shutil.copy(choose.choice(videos), folder / f"{choose.randrange(10**6)}.mp4")

    def remove() -> None:
        choose.choice(sorted(folder.iterdir())).unlink()

    def rename() -> None:
        choose.choice(sorted(folder.iterdir())).rename(folder / f"{choose.randrange(10**6)}.mp4")

    def change() -> None:
        shutil.copy(choose.choice(videos), choose.choice(sorted(folder.iterdir())))

    def spoil() -> None:
        (folder / f"{choose.randrange(10**6)}.mp4").write_bytes(b"not a video %d" % choose.randrange(10**6))

    for _ in range(12):
        add()
    for _ in range(5):
        for _ in range(choose.randrange(1, 5)):
            choose.choice([add, add, remove, rename, change, spoil])()
        build(tmp_path, max_quarantined_fraction=1)
        build(tmp_path, "full", max_quarantined_fraction=1)
        assert files_of(tmp_path / "frames") == files_of(tmp_path / "full")
        again = build(tmp_path, max_quarantined_fraction=1)
        assert (again.decoded, again.removed) == (0, 0)
        shutil.rmtree(tmp_path / "full")


def test_a_renamed_and_a_copied_file_are_not_decoded_again(videos, tmp_path):
    folder = tmp_path / "data" / "videos"
    folder.mkdir(parents=True)
    for number, video in enumerate(videos[:6]):
        shutil.copy(video, folder / f"{number}.mp4")
    shutil.copy(videos[0], folder / "same.mp4")
    summary = build(tmp_path)
    assert (summary.media, summary.decoded) == (7, 6)

    (folder / "3.mp4").rename(folder / "renamed.mp4")
    shutil.copy(folder / "4.mp4", folder / "copied.mp4")
    summary = build(tmp_path)
    assert (summary.media, summary.decoded, summary.removed) == (8, 0, 1)
    cache = FrameCache(tmp_path / "frames")
    assert number_of(cache["videos/renamed.mp4"].images[0]) == 30 + 2
    assert number_of(cache["videos/copied.mp4"].images[0]) == 40 + 2
    build(tmp_path, "full")
    assert files_of(tmp_path / "frames") == files_of(tmp_path / "full")


def test_shards_are_about_as_large_as_asked_for(videos, tmp_path):
    folder = tmp_path / "data" / "videos"
    folder.mkdir(parents=True)
    for number in range(60):
        os.link(videos[number % 24], folder / f"{number}.mp4")
    summary = build(tmp_path)
    sizes = [path.stat().st_size for path in (tmp_path / "frames").glob("*.tar")]
    largest = max(entry.length for entry in Index(tmp_path / "frames" / "index.arrow"))
    target = MORE.shard_mb * 2**20
    assert summary.decoded == 24
    assert max(sizes) < 2 * target + largest + 1024
    assert target / 3 < sum(sizes) / len(sizes) < 2 * target


@pytest.fixture
def spoiled(data: Path, tmp_path: Path) -> Path:
    """data/ with a file that cannot be decoded, built."""
    (data / "videos" / "bad.mp4").write_bytes(b"not a video" * 100)
    build(tmp_path, max_quarantined_fraction=0.2)
    return tmp_path


def test_what_cannot_be_decoded_goes_to_quarantine(spoiled, capsys):
    (line,) = (spoiled / "frames" / "quarantine.jsonl").read_text().splitlines()
    record = json.loads(line)
    assert (record["media"], record["reason"], record["first_bad_s"]) == ("videos/bad.mp4", "unreadable", None)
    assert "bad.mp4: cannot be decoded" in record["detail"]
    cache = FrameCache(spoiled / "frames")
    assert cache.quarantined == ["videos/bad.mp4"]
    assert "videos/bad.mp4" not in cache
    before = {path.name: path.stat().st_mtime_ns for path in (spoiled / "frames").iterdir()}
    summary = build(spoiled, max_quarantined_fraction=0.2)
    assert {path.name: path.stat().st_mtime_ns for path in (spoiled / "frames").iterdir()} == before
    assert (summary.media, summary.decoded, summary.quarantined) == (6, 0, 1)
    assert "quarantined: 1 media" in summary.lines()[1]
    assert "quarantine.jsonl says why" in summary.lines()[1]


def test_copies_of_what_cannot_be_decoded_are_listed_under_their_own_names(spoiled):
    shutil.copy(spoiled / "data" / "videos" / "bad.mp4", spoiled / "data" / "videos" / "copy.mp4")
    build(spoiled, "fresh", max_quarantined_fraction=0.5)
    assert FrameCache(spoiled / "fresh").quarantined == ["videos/bad.mp4", "videos/copy.mp4"]
    assert build(spoiled, "fresh", max_quarantined_fraction=0.5).decoded == 0


@pytest.mark.parametrize("change", ["bytes", "repair", "timeout", "removed"])
def test_a_quarantined_file_is_tried_again_when_something_changed(spoiled, videos, change, monkeypatch):
    tried = []
    monkeypatch.setattr("clipbert.frame_cache.executors.try_again", _noting(tried))
    bad = spoiled / "data" / "videos" / "bad.mp4"
    arguments = {"max_quarantined_fraction": 0.2}
    if change == "bytes":
        shutil.copy(videos[3], bad)
    elif change == "removed":
        bad.unlink()
    elif change == "timeout":
        arguments["changes"] = {"timeout_s": 40.0}
    summary = build(spoiled, repair=change == "repair", **arguments)
    assert tried == (["videos/bad.mp4"] if change in ("repair", "timeout") else [])
    assert summary.quarantined == (1 if change in ("repair", "timeout") else 0)
    assert ("videos/bad.mp4" in FrameCache(spoiled / "frames")) is (change == "bytes")
    build(spoiled, "full", **arguments)
    assert files_of(spoiled / "frames") == files_of(spoiled / "full")


def _noting(tried):
    from clipbert.frame_cache.pack import try_again

    def noting(pool, job, timeout_s):
        tried.append(job.media)
        return try_again(pool, job, timeout_s)

    return noting


def test_missing_and_changed_files_send_to_ingest(data, tmp_path):
    manifest = write_manifest(data, tmp_path / "manifest")
    kept = (data / "videos" / "b.mp4").read_bytes()
    (data / "videos" / "b.mp4").unlink()
    with pytest.raises(ClipBertError, match=r"(?s)names files that are not there.*videos/b\.mp4.*clipbert ingest"):
        build_cache(data, manifest, tmp_path / "frames", MORE)
    (data / "videos" / "b.mp4").write_bytes(kept + b"more")
    with pytest.raises(ClipBertError, match=r"videos/b\.mp4: not the file that ingest saw .*clipbert ingest"):
        build_cache(data, manifest, tmp_path / "frames", MORE)
    (data / "videos" / "b.mp4").write_bytes(kept)
    assert build_cache(data, manifest, tmp_path / "frames", MORE).media == 6


def test_rot_is_found_at_read_and_mended_by_repair(data, tmp_path):
    build(tmp_path)
    before = files_of(tmp_path / "frames")
    entry = Index(tmp_path / "frames" / "index.arrow")[3]
    shard = tmp_path / "frames" / entry.shard
    content = bytearray(shard.read_bytes())
    content[int(entry.frame_offsets[0]) + 50] ^= 1
    shard.write_bytes(content)
    assert build(tmp_path).decoded == 0, "names and sizes are right"
    with pytest.raises(ClipBertError, match=rf"{entry.shard}: frame 0 fails .*{entry.media}.*clipbert frames --repair"):
        _ = FrameCache(tmp_path / "frames")[entry.media].images
    summary = build(tmp_path, repair=True)
    assert (summary.decoded, summary.damaged) == (1, 1)
    assert files_of(tmp_path / "frames") == before


def test_rot_in_what_is_copied_is_mended_on_the_way(data, tmp_path):
    build(tmp_path, changes={"shard_mb": 8.0})
    entry = Index(tmp_path / "frames" / "index.arrow")[3]
    shard = tmp_path / "frames" / entry.shard
    content = bytearray(shard.read_bytes())
    content[int(entry.frame_offsets[0]) + 50] ^= 1
    shard.write_bytes(content)
    summary = build(tmp_path)
    assert (summary.decoded, summary.damaged) == (1, 1)
    build(tmp_path, "full")
    assert files_of(tmp_path / "frames") == files_of(tmp_path / "full")


def test_texts_of_quarantined_media_are_left_out_and_counted(spoiled, capsys):
    texts = pd.DataFrame({"media": ["videos/a.mp4", "videos/bad.mp4", "videos/bad.mp4", "videos/lost.mp4"]})
    kept = texts_with_frames(texts, FrameCache(spoiled / "frames"))
    assert kept["media"].tolist() == ["videos/a.mp4", "videos/lost.mp4"]
    said = capsys.readouterr().out
    assert "2 of 4 texts are left out: their 1 media could not be decoded" in said
    assert "frames/quarantine.jsonl" in said
