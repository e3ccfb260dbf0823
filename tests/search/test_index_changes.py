"""Changes of an index: what is added, kept, removed, merged and resumed; failures, locks, kills and a full disk."""

import errno
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from write_points import in_child, kill

from clipbert.errors import ClipBertError
from clipbert.files.locks import file_lock
from clipbert.search import (
    SearchIndex,
    VideoSource,
    add_videos,
    build_index,
    merge_indexes,
    remove_videos,
)
from clipbert.search import writer as writer_module
from clipbert.search.index_file import LOCK, Settings, read_state
from clipbert.search.segment import IndexedVideo, Segment
from clipbert.search.sources import from_paths
from clipbert.search.vectors import Vectors, write_vectors
from clipbert.search.writer import open_writer

TEXT = "a red square moves left"


def contents(folder: Path) -> dict[str, str]:
    """Return the digest of each file of the segments."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted((folder / "segments").rglob("*"))
        if path.is_file()
    }


def made_videos(count: int, first: int = 0, dimension: int = 128, clips: int = 1) -> list[IndexedVideo]:
    """Return videos with random vectors and without files."""
    random = np.random.default_rng(first)
    found = []
    for number in range(first, first + count):
        vectors = random.normal(size=(clips, dimension))
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        spans = np.stack([np.arange(clips), np.arange(clips) + 1], axis=1).astype(np.float64)
        tokens = random.normal(size=(clips, 1, 2, 4)).astype(np.float16)
        found.append(
            IndexedVideo(
                f"{number}.mp4",
                f"/x/{number}.mp4",
                "0" * 64,
                (1, number),
                1.0 * clips,
                {"number": number},
                spans,
                vectors.astype(np.float16),
                tokens,
            )
        )
    return found


def add_made(folder: Path, settings: Any, videos: list[IndexedVideo]) -> None:
    with open_writer(folder, settings, "model") as writer:
        for video in videos:
            writer.add(video)
        writer.commit()


@pytest.fixture
def settings() -> Settings:
    """Settings of an index of made videos."""
    frames = {"fps": 2.0, "size": 112, "max_frames": 2048, "sampling": "uniform"}
    return Settings("0" * 64, 1, 1, frames, clip_s=2.0, tokens=True, dimension=128)


@pytest.mark.slow
def test_a_second_build_does_nothing_and_one_with_other_videos_changes_only_them(
    index_copy: Path, search_model: Any, library: Path, sources: list[VideoSource], tmp_path: Path
) -> None:
    before = contents(index_copy)
    result = build_index(index_copy, search_model, sources, clip_s=2.0, title=None)
    assert (result.added, result.kept, result.removed, result.failures) == (0, len(sources), 0, ())
    assert contents(index_copy) == before

    mine = tmp_path / "mine"
    shutil.copytree(library, mine)
    (mine / "0.mp4").unlink()
    shutil.copyfile(library / "2.mp4", mine / "1.mp4")
    shutil.copyfile(library / "3.mp4", mine / "new.mp4")
    result = build_index(index_copy, search_model, from_paths([mine]), clip_s=2.0, title=None)
    assert (result.added, result.kept, result.removed) == (2, len(sources) - 2, 1)
    after = contents(index_copy)
    assert {name: after[name] for name in before} == before  # the old segment has the same bytes
    index = SearchIndex.open(index_copy)
    assert index.video_ids() == [source.video_id for source in from_paths([mine])]
    scores = {hit.video_id: hit.score for hit in index.search(search_model, TEXT, k=20)}
    assert scores["1.mp4"] == scores["2.mp4"]
    assert scores["new.mp4"] == scores["3.mp4"]


@pytest.mark.slow
def test_adding_and_removing(index_copy: Path, search_model: Any, library: Path, tmp_path: Path) -> None:
    before = contents(index_copy)
    shutil.copyfile(library / "2.mp4", tmp_path / "extra.mp4")
    result = add_videos(index_copy, search_model, from_paths([tmp_path / "extra.mp4"]), title=None)
    assert (result.added, result.removed) == (1, 0)
    assert {name: digest for name, digest in contents(index_copy).items() if name in before} == before
    assert "extra.mp4" in SearchIndex.open(index_copy).video_ids()
    assert remove_videos(index_copy, ["extra.mp4", "sub"]) == 2
    index = SearchIndex.open(index_copy)
    assert not {"extra.mp4", "sub/long.mp4"} & set(index.video_ids())
    assert all(hit.video_id != "sub/long.mp4" for hit in index.search(search_model, TEXT, k=20))
    with pytest.raises(ClipBertError, match=r"gone\.mp4: not in the index .* which has 8 videos such as 0\.mp4"):
        remove_videos(index_copy, ["gone.mp4"])


@pytest.mark.slow
def test_broken_videos_are_reported_and_the_others_indexed(
    search_model: Any, library: Path, tmp_path: Path, tiny_video: Callable[..., Path]
) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "broken.mp4").write_bytes(b"not a video")
    (mine / "empty.mp4").write_bytes(b"")
    with pytest.raises(ClipBertError, match=r"none of 2 videos could be indexed; the first: broken\.mp4: "):
        build_index(tmp_path / "search", search_model, from_paths([mine]), title=None)
    shutil.copyfile(library / "1.mp4", mine / "good.mp4")
    result = build_index(tmp_path / "search", search_model, from_paths([mine]), title=None)
    assert result.added == 1
    assert {each.video_id for each in result.failures} == {"broken.mp4", "empty.mp4"}
    assert SearchIndex.open(tmp_path / "search").info().failed == 2
    # a repaired file is tried again, and one that is gone is not reported any more
    tiny_video(mine / "broken.mp4")
    (mine / "empty.mp4").unlink()
    result = build_index(tmp_path / "search", search_model, from_paths([mine]), title=None)
    assert (result.added, result.failures) == (1, ())
    # a video that breaks is not found by its old content
    (mine / "good.mp4").write_bytes(b"broken now")
    result = build_index(tmp_path / "search", search_model, from_paths([mine]), title=None)
    assert [each.video_id for each in result.failures] == ["good.mp4"]
    assert SearchIndex.open(tmp_path / "search").video_ids() == ["broken.mp4"]


@pytest.mark.slow
def test_another_model_replaces_the_index_when_it_is_asked_to(
    index_copy: Path, sources: list[VideoSource], tmp_path: Path
) -> None:
    from small_releases import save_model

    from clipbert import pipeline

    other = pipeline("retrieval", save_model(tmp_path / "other", "retrieval", 1))
    build_index(index_copy, other, sources, clip_s=2.0, replace_index=True, title=None)
    assert len(SearchIndex.open(index_copy).search(other, TEXT, k=20)) == len(sources)
    assert sorted(path.name for path in index_copy.parent.iterdir()) == ["other", "search"]


@pytest.mark.slow
def test_changed_metadata_needs_no_new_vectors(
    index_copy: Path, search_model: Any, sources: list[VideoSource], monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = SearchIndex.open(index_copy).search(search_model, TEXT, k=20)
    monkeypatch.setattr("clipbert.search.encode.encode", None)
    marked = [VideoSource(each.video_id, each.path, {"place": each.video_id}) for each in sources]
    assert build_index(index_copy, search_model, marked, clip_s=2.0, title=None).kept == len(sources)
    found = SearchIndex.open(index_copy).search(search_model, TEXT, k=20)
    assert [hit.score for hit in found] == [hit.score for hit in expected]
    assert [hit.metadata for hit in found] == [{"place": hit.video_id} for hit in found]


@pytest.mark.slow
def test_other_settings_and_no_videos(built: Path, search_model: Any, sources: list[VideoSource]) -> None:
    with pytest.raises(ClipBertError, match=r"was made with clip_s 2\.0, not 5\.0"):
        build_index(built, search_model, sources, clip_s=5.0, title=None)
    with pytest.raises(ClipBertError, match="no videos to index"):
        build_index(built, search_model, [], title=None)


@pytest.mark.slow
def test_an_index_that_another_process_writes(built: Path, search_model: Any, sources: list[VideoSource]) -> None:
    with file_lock(built / LOCK), pytest.raises(ClipBertError, match="another process writes this index"):
        build_index(built, search_model, sources, clip_s=2.0, title=None)


def test_many_segments_are_merged_and_large_ones_stay(
    tmp_path: Path, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer_module, "COMMIT_CLIPS", 10_000)
    folder = tmp_path / "search"
    add_made(folder, settings, made_videos(8192, 10_000))
    large = contents(folder)
    for number in range(8):
        add_made(folder, settings, made_videos(20, 100 * number))
    state = read_state(folder)
    assert [each.videos for each in state.segments] == [8192, 160]
    assert {name: digest for name, digest in contents(folder).items() if name in large} == large
    assert len(SearchIndex.open(folder)) == 8352
    assert len(list((folder / "segments").iterdir())) == len(state.segments)


def test_merging_keeps_each_video_with_its_clips_vectors_and_tokens(tmp_path: Path, settings: Any) -> None:
    folder = tmp_path / "search"
    videos = made_videos(240, clips=3)
    for start in range(0, 240, 30):
        add_made(folder, settings, videos[start : start + 30])
        if start == 0:
            remove_videos(folder, ["7.mp4"])
    (record,) = read_state(folder).segments
    assert (record.videos, record.deleted) == (239, [])
    segment = Segment(folder, record)
    vectors = np.concatenate(list(segment.vectors.blocks()))
    kept = [video for video in videos if video.video_id != "7.mp4"]
    for number, video in enumerate(kept):
        rows = np.flatnonzero(segment.clips["video"] == number)
        row = segment.video(number)
        assert (row["video_id"], row["clips"], row["metadata.number"]) == (video.video_id, 3, video.metadata["number"])
        assert np.array_equal(vectors[rows], video.vectors)
        assert np.array_equal(segment.clips["start_s"][rows], video.spans[:, 0])
        assert video.tokens is not None
        assert np.array_equal(segment.read_tokens(int(rows[1])), video.tokens[1])


def test_a_segment_with_mostly_deleted_videos_is_written_again(tmp_path: Path, settings: Any) -> None:
    add_made(tmp_path / "search", settings, made_videos(10))
    remove_videos(tmp_path / "search", [f"{number}.mp4" for number in range(4)])
    assert [each.videos for each in read_state(tmp_path / "search").segments] == [10]
    remove_videos(tmp_path / "search", ["4.mp4"])
    assert [each.videos for each in read_state(tmp_path / "search").segments] == [5]
    remove_videos(tmp_path / "search", [f"{number}.mp4" for number in range(5, 10)])
    assert read_state(tmp_path / "search").segments == ()
    assert len(SearchIndex.open(tmp_path / "search")) == 0


def test_indexes_of_several_machines_merge(tmp_path: Path, settings: Any) -> None:
    add_made(tmp_path / "a", settings, made_videos(5))
    add_made(tmp_path / "b", settings, made_videos(5, 3))  # 3.mp4 and 4.mp4 are in both
    assert merge_indexes(tmp_path / "whole", [tmp_path / "a", tmp_path / "b"]) == 10
    whole = SearchIndex.open(tmp_path / "whole")
    assert whole.video_ids() == [f"{number}.mp4" for number in range(8)]
    with pytest.raises(ClipBertError, match="cannot be merged into itself"):
        merge_indexes(tmp_path / "a", [tmp_path / "a"])
    with pytest.raises(ClipBertError, match="no search index here"):
        merge_indexes(tmp_path / "a", [tmp_path / "nothing"])


def test_an_inverted_file_finds_what_comparing_all_finds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(0)
    vectors = random.normal(size=(4000, 32)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    halves = vectors.astype(np.float16)
    write_vectors(tmp_path / "exact", halves)
    monkeypatch.setattr("clipbert.search.vectors.INVERTED_FROM", 1000)
    write_vectors(tmp_path / "inverted", halves)
    exact, inverted = Vectors(tmp_path / "exact"), Vectors(tmp_path / "inverted")
    assert (exact.inverted, inverted.inverted) == (False, True)
    assert np.array_equal(np.concatenate(list(inverted.blocks())), halves)
    assert np.array_equal(np.concatenate(list(exact.blocks())), halves)
    few = np.zeros(4000, dtype=bool)
    few[::100] = True
    for query in vectors[:20]:
        scores = halves.astype(np.float32) @ query
        assert exact.search(query, 10)[1].tolist() == np.argsort(-scores)[:10].tolist()
        assert inverted.search(query, 1)[1][0] == scores.argmax()
        expected = np.flatnonzero(few)[np.argsort(-scores[few])[:10]]  # where few rows count, all lists are read
        assert inverted.search(query, 10, few)[1].tolist() == expected.tolist()
        assert exact.search(query, 10, few)[1].tolist() == expected.tolist()
    assert exact.search(vectors[0], 10, np.zeros(4000, dtype=bool))[1].tolist() == []


class Points:
    """Counts the operations that write; acts at the chosen one."""

    def __init__(self, chosen: int | None, act: Callable[[str], None]) -> None:
        self.chosen, self.act, self.passed = chosen, act, 0

    def install(self, patch: pytest.MonkeyPatch) -> None:
        for name in ("fsync", "replace", "rename", "mkdir", "unlink"):
            patch.setattr(os, name, self._wrap(getattr(os, name), name))

    def _wrap(self, operation: Callable[..., Any], name: str) -> Callable[..., Any]:
        def wrapped(*arguments: Any, **named: Any) -> Any:
            self._pass(name)
            result = operation(*arguments, **named)
            self._pass(name)
            return result

        return wrapped

    def _pass(self, name: str) -> None:
        self.passed += 1
        if self.passed - 1 == self.chosen:
            self.act(name)


def change(folder: Path, settings: Any) -> None:
    """Add videos in several segments, replace one, merge segments, and remove one."""
    with open_writer(folder, settings, "model") as writer:
        for start in range(10, 45, 5):
            for video in made_videos(5, start):
                writer.add(video)
            writer.commit()
        writer.remove(["0.mp4"])


@pytest.mark.slow
def test_a_kill_at_any_point_leaves_an_index_that_can_be_read_and_finished(tmp_path: Path, settings: Any) -> None:
    base = tmp_path / "base"
    add_made(base, settings, made_videos(10))
    counting = Points(None, kill)
    shutil.copytree(base, tmp_path / "counted")
    with pytest.MonkeyPatch.context() as patch:
        counting.install(patch)
        change(tmp_path / "counted", settings)
    expected = SearchIndex.open(tmp_path / "counted").video_ids()
    assert counting.passed > 100
    old = {f"{number}.mp4" for number in range(10)}
    for chosen in range(0, counting.passed, 5):
        folder = tmp_path / f"killed-{chosen}"
        shutil.copytree(base, folder)

        def work(folder: Path = folder, chosen: int = chosen) -> None:
            with pytest.MonkeyPatch.context() as patch:
                Points(chosen, kill).install(patch)
                change(folder, settings)

        assert in_child(work) == -9, chosen
        found = set(SearchIndex.open(folder).video_ids())  # every file is checked
        assert old - {"0.mp4"} <= found <= old | {f"{number}.mp4" for number in range(10, 45)}, chosen
        if "0.mp4" in found:
            change(folder, settings)
            assert SearchIndex.open(folder).video_ids() == expected
            assert len(list((folder / "segments").iterdir())) == len(read_state(folder).segments)
        shutil.rmtree(folder)


def test_a_full_disk_leaves_the_index_as_it_was(tmp_path: Path, settings: Any) -> None:
    base = tmp_path / "base"
    add_made(base, settings, made_videos(10))
    before = contents(base)

    def full(name: str) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    for chosen in (3, 12):
        with pytest.MonkeyPatch.context() as patch:
            Points(chosen, full).install(patch)
            with pytest.raises(ClipBertError, match="no space left on the device"):
                add_made(base, settings, made_videos(5, 50))
        assert contents(base) == before
        assert len(SearchIndex.open(base)) == 10


@pytest.mark.slow
def test_a_killed_build_continues(
    tmp_path: Path, retrieval_folder: Path, library: Path, search_model: Any, sources: list[VideoSource]
) -> None:
    """A real build is killed after its second commit; the next one adds only the rest."""
    program = f"""
import os, signal
from pathlib import Path
from clipbert import pipeline
from clipbert.search import build_index, writer
from clipbert.search.sources import from_paths
writer.COMMIT_CLIPS = 2
commit, count = writer.IndexWriter.commit, 0
def killing(self):
    global count
    commit(self)
    count += 1
    if count == 2:
        os.kill(os.getpid(), signal.SIGKILL)
writer.IndexWriter.commit = killing
build_index(Path({str(tmp_path / "search")!r}), pipeline("retrieval", {str(retrieval_folder)!r}),
            from_paths([Path({str(library)!r})]), clip_s=2.0, title=None)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == -9, done.stderr
    committed = len(SearchIndex.open(tmp_path / "search"))
    assert 0 < committed < len(sources)
    result = build_index(tmp_path / "search", search_model, sources, clip_s=2.0, title=None)
    assert (result.added, result.kept) == (len(sources) - committed, committed)
    assert len(SearchIndex.open(tmp_path / "search")) == len(sources)


def test_an_open_index_survives_a_merge(tmp_path: Path, settings: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "search"
    for number in range(7):
        add_made(folder, settings, made_videos(5, 10 * number))
    opened = SearchIndex.open(folder)
    add_made(folder, settings, made_videos(5, 70))  # the eighth segment: all are merged, and the old files are gone
    assert len(read_state(folder).segments) == 1
    query = made_videos(1, 0)[0].vectors[0].astype(np.float32)
    assert opened._candidates(query, 3, {})[0].cosine == pytest.approx(1.0, abs=1e-2)
    # one that reads the state just before the merge reads it again
    stale = read_state(folder)
    for number in range(7):
        add_made(folder, settings, made_videos(5, 100 + 10 * number))
    answers = [stale, read_state(folder)]
    monkeypatch.setattr(
        "clipbert.search.index.read_state", lambda _: answers.pop(0) if len(answers) > 1 else answers[0]
    )
    assert len(SearchIndex.open(folder)) == 75


def test_the_commit_of_a_long_build_is_regular(tmp_path: Path, settings: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer_module, "COMMIT_CLIPS", 10)
    with open_writer(tmp_path / "search", settings, "model") as writer:
        for video in made_videos(25):
            writer.add(video)
        assert len(SearchIndex.open(tmp_path / "search")) == 20
        writer.commit()
    assert len(SearchIndex.open(tmp_path / "search")) == 25
