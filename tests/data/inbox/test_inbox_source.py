"""Inboxes at addresses, which are only read, and files that change while they are read."""

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from arriving import ArrivingData, make_older

from clipbert.data.inbox.seen import Seen
from clipbert.data.inbox.source import (
    Arrival,
    ChangedError,
    FolderSource,
    RemoteSource,
    copy_within,
    open_source,
    unfinished,
    unusable,
)
from clipbert.errors import ClipBertError

Make = Callable[..., Path]


@pytest.mark.slow
def test_files_of_an_address_stay_and_are_not_fetched_again(
    tmp_path: Path, tiny_data: Make, tiny_video: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny_data(tmp_path / "data")
    arriving = ArrivingData(tmp_path, severity={"near_duplicates": "warn"})
    arriving.video(tiny_video)
    arriving.row(split="train")
    arriving.row(id="c0", text="another text")
    (arriving.inbox / "videos/broken.mp4").write_bytes(b"no video")
    arriving.row(id="b", media="videos/broken.mp4")
    arriving.params = arriving.params.model_copy(update={"source": f"file://{arriving.inbox}"})
    fetched: list[str] = []
    copy = RemoteSource.copy

    def watched(self: RemoteSource, arrival: Arrival, target: Path) -> str:
        fetched.append(arrival.name)
        return copy(self, arrival, target)

    monkeypatch.setattr(RemoteSource, "copy", watched)
    files = ["captions.jsonl", "videos/broken.mp4", "videos/new.mp4"]
    assert arriving.collect().lines()[0].startswith("merged into data/: 1 media (1 train)")
    assert fetched == files
    assert arriving.left() == files
    assert arriving.collect().lines() == ["nothing new to merge"]
    assert fetched == files
    arriving.row(id="later", media="videos/0.mp4")
    result = arriving.collect()
    assert fetched[3:] == ["captions.jsonl"], "a changed file is a new one"
    assert result.plan is not None
    assert (result.plan["texts"], result.present_rows) == ({"caption": 1}, 1)
    arriving.collect(recheck=True)
    assert sorted(fetched[4:]) == files


def test_an_address_needs_a_known_protocol(tmp_path: Path) -> None:
    with pytest.raises(ClipBertError, match="nowhere://bucket/new: Protocol not known"):
        open_source("nowhere://bucket/new", tmp_path)


def test_a_file_that_changes_while_it_is_copied_is_not_used(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(b"first")
    for source in (FolderSource(tmp_path, "inbox"), RemoteSource(f"file://{tmp_path}")):
        (arrival,) = source.arrivals()
        with (tmp_path / "a.mp4").open("ab") as file:
            file.write(b"more")
        with pytest.raises(ChangedError):
            source.copy(arrival, tmp_path / "out" / "a.mp4")
        assert not (tmp_path / "out" / "a.mp4").exists()
        with pytest.raises(ChangedError):
            source.copy(Arrival("gone.mp4", "", None), tmp_path / "out" / "gone.mp4")
        (tmp_path / "out").rmdir() if not list((tmp_path / "out").iterdir()) else None


def test_a_link_is_not_an_arrival_and_a_changed_file_is_not_removed(tmp_path: Path) -> None:
    inbox = tmp_path / "inbox"
    inbox.mkdir()
    (tmp_path / "secret.mp4").write_bytes(b"x")
    (inbox / "link.mp4").symlink_to(tmp_path / "secret.mp4")
    (inbox / "folder").symlink_to(tmp_path)
    (inbox / "a.mp4").write_bytes(b"first")
    source = FolderSource(inbox, "inbox")
    (arrival,) = source.arrivals()
    assert arrival.name == "a.mp4"
    (inbox / "a.mp4").write_bytes(b"second upload")
    source.remove(arrival)
    assert (inbox / "a.mp4").read_bytes() == b"second upload"
    source.remove(source.arrivals()[0])
    assert not (inbox / "a.mp4").exists()
    source.remove(arrival)


def test_the_time_of_a_file_is_that_of_its_last_change_of_any_kind(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(b"x")
    make_older(tmp_path / "a.mp4", 1000.0)
    (arrival,) = FolderSource(tmp_path, "inbox").arrivals()
    assert arrival.changed is not None
    assert arrival.changed - (tmp_path / "a.mp4").stat().st_mtime > 900, "unpacking sets the time of modification back"


def test_markers_and_temporary_names() -> None:
    names = ["a.mp4", "a.mp4.uploading", "b.mp4", "c.mp4.crdownload", ".d.mp4", "e/.uploading", "e/f/g.mp4", "h~"]
    found = unfinished([Arrival(name, "", None) for name in names])
    assert sorted(set(names) - set(found)) == ["b.mp4"]
    assert found["a.mp4"] == "a.mp4.uploading exists"
    assert found["e/f/g.mp4"] == "e/.uploading exists"
    everything = unfinished([Arrival(name, "", None) for name in ("a.mp4", ".uploading")])
    assert set(everything) == {"a.mp4", ".uploading"}


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("captions.jsonl", None),
        ("open_qa-2026.11.28.jsonl", None),
        ("videos/deep/a.MP4", None),
        ("batch/captions.jsonl", "not an annotation file: expected captions.jsonl, open_qa.jsonl,"),
        ("labels.csv", "not an annotation file"),
        ("readme.txt", "neither a video, an image nor an annotation file"),
        ("videos/a\n.mp4", "its name is not UTF-8 or holds a control character"),
    ],
)
def test_which_files_are_read(name: str, reason: str | None) -> None:
    found = unusable(Arrival(name, "", None))
    assert found is None if reason is None else (found or "").startswith(reason)


def test_a_staged_file_is_copied_where_links_do_not_work_and_replaces_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_links(*_: object) -> None:
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))

    (tmp_path / "a").write_bytes(b"x")
    copy_within(tmp_path / "a", tmp_path / "linked" / "a")
    monkeypatch.setattr(os, "link", no_links)
    copy_within(tmp_path / "a", tmp_path / "copied" / "a")
    assert (tmp_path / "copied" / "a").read_bytes() == b"x"
    with pytest.raises(FileExistsError):
        copy_within(tmp_path / "a", tmp_path / "copied" / "a")


@pytest.mark.parametrize("text", ["", "{", "[]", '{"source": "x"}', '{"source": "x", "files": {"a": {"no": 1}}}'])
def test_a_damaged_memory_is_an_empty_one(tmp_path: Path, text: str) -> None:
    path = tmp_path / "seen.json"
    path.write_text(text)
    assert Seen(path, "inbox").entries() == {}
