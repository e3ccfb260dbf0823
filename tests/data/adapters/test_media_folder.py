"""Which file an official name finds."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from clipbert.data.adapters.media_folder import MediaFolder, place_file, stem
from clipbert.errors import ClipBertError


@pytest.mark.parametrize(
    ("name", "bare"),
    [
        ("video1", "video1"),
        ("video1.MP4", "video1"),
        ("train2014/COCO_1.jpg", "COCO_1"),
        ("1@N00_2_3.", "1@N00_2_3"),
        ("1@N00_2_3.3g2", "1@N00_2_3"),
        ("v_a.b", "v_a.b"),
    ],
)
def test_stem(name: str, bare: str) -> None:
    assert stem(name) == bare


def found(folder: Path, name: str) -> str | None:
    file = MediaFolder(folder).find(name)
    return file.path.relative_to(folder).as_posix() if file else None


def test_one_stem_in_several_files(media: Callable[..., Path]) -> None:
    folder = media("a.webm", "deep/a.mp4", "a.jpg", "deep/b.webm", "b.avi", "c.jpg")
    (folder / "a.json").write_text("{}")
    (folder / "d.json").write_text("{}")
    (folder / ".a.mp4").write_bytes(b"hidden")
    assert found(folder, "a") == "deep/a.mp4"
    assert found(folder, "a.webm") == "a.webm"
    assert found(folder, "b.mov") == "b.avi"
    assert found(folder, "c") == "c.jpg"
    assert found(folder, "d") is None
    file = MediaFolder(folder).find("a")
    assert file is not None
    assert (file.others, file.other_case) == (2, False)


def test_case_and_composed_letters(media: Callable[..., Path]) -> None:
    folder = media("Video1.mp4", "aBc.mp4", "abc.mp4", "cafe\u0301.mp4")
    file = MediaFolder(folder).find("video1")
    assert file is not None
    assert (file.path.name, file.other_case) == ("Video1.mp4", True)
    assert found(folder, "abc") == "abc.mp4"
    assert found(folder, "aBc") == "aBc.mp4"
    assert found(folder, "caf\u00e9") == "cafe\u0301.mp4"


def test_links_are_followed_and_loops_end(tmp_path: Path, media: Callable[..., Path]) -> None:
    folder = media("deep/a.mp4", folder=tmp_path / "elsewhere")
    (tmp_path / "links").mkdir()
    (tmp_path / "links" / "to").symlink_to(folder)
    (folder / "deep" / "loop").symlink_to(folder)
    (folder / "gone.mp4").symlink_to(folder / "nothing.mp4")
    assert found(tmp_path / "links", "a") == "to/deep/a.mp4"
    assert found(tmp_path / "links", "gone") is None


def test_no_folder(tmp_path: Path) -> None:
    with pytest.raises(ClipBertError, match="no such folder"):
        MediaFolder(tmp_path / "gone")
    with pytest.raises(ClipBertError, match="an empty folder"):
        MediaFolder(tmp_path)


def test_placing(tmp_path: Path, media: Callable[..., Path]) -> None:
    folder = media("a.mp4")
    assert not place_file(folder / "a.mp4", tmp_path / "out" / "videos" / "a.mp4")
    assert os.path.samefile(folder / "a.mp4", tmp_path / "out" / "videos" / "a.mp4")
    with pytest.raises(ClipBertError, match="has gone, or is a link to nothing"):
        place_file(folder / "b.mp4", tmp_path / "out" / "b.mp4")
