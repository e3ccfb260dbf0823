"""Which file an official name finds."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from clipbert.data.importers.media_folder import Ambiguous, Found, MediaFolder, place_file, stem
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


def found(folder: Path, name: str) -> str | tuple[str, ...] | None:
    file = MediaFolder(folder).find(name)
    if isinstance(file, Ambiguous):
        return file.paths
    return file.path.relative_to(folder).as_posix() if file else None


def different(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    return folder


def test_one_stem_in_several_files_of_a_folder(tmp_path: Path) -> None:
    folder = different(tmp_path, "a.webm", "a.mp4", "a.jpg", "a.json", "b.avi", "c.jpg", "d.json", ".a.mp4")
    assert found(folder, "a") == "a.mp4"
    assert found(folder, "a.webm") == "a.webm"
    assert found(folder, "b.mov") == "b.avi"
    assert found(folder, "c") == "c.jpg"
    assert found(folder, "d") is None
    file = MediaFolder(folder).find("a")
    assert isinstance(file, Found)
    assert (file.others, file.other_case) == (2, False)


def test_a_bare_name_in_several_folders_is_ambiguous(tmp_path: Path) -> None:
    folder = different(tmp_path, "run/001.mp4", "walk/001.webm", "run/002.mp4", "top.mp4", "run/top.mp4")
    assert found(folder, "001") == ("run/001.mp4", "walk/001.webm")
    assert found(folder, "001.webm") == "walk/001.webm"
    assert found(folder, "002") == "run/002.mp4"
    assert found(folder, "top.mp4") == "top.mp4"  # its whole path
    assert found(folder, "top") == ("run/top.mp4", "top.mp4")
    (folder / "walk" / "002.mp4").write_bytes((folder / "run" / "002.mp4").read_bytes())
    assert found(folder, "002.mp4") == "run/002.mp4"  # a copy: either is right


def test_a_path_matches_by_its_folders(tmp_path: Path) -> None:
    folder = different(tmp_path / "media", "run/001.mp4", "deep/Walk/002.mp4", "003.mp4")
    for name in (
        "run/001.mp4",
        "run/001",
        "media/run/001.mp4",
        "./run/001.mkv",
        "run\\001.mp4",
        str(folder / "run/001"),
    ):
        assert found(folder, name) == "run/001.mp4", name
    for name in (
        "walk/001.mp4",
        "walk/001",
        "/elsewhere/run/001.mp4",
        "xrun/001.mp4",
        "../run/001.mp4",
        "walk\\001.mp4",
    ):
        assert found(folder, name) is None, name
    assert found(folder, "walk/002") == "deep/Walk/002.mp4"  # case aside
    assert found(folder, "run/003.mp4") is None
    assert MediaFolder(folder).elsewhere("walk/001.mp4") == "run/001.mp4"


def test_a_name_without_its_leading_zeros_gets_a_hint(tmp_path: Path) -> None:
    folder = MediaFolder(different(tmp_path, "00012.mp4", "clip007.mp4", "plain.mp4"))
    assert folder.find("12") is None
    assert folder.similar("12") == "00012.mp4"
    assert folder.similar("clip7.avi") == "clip007.mp4"
    assert folder.similar("00012") is None
    assert folder.similar("plainer") is None


def test_hidden_files_match_hidden_names_alone(tmp_path: Path) -> None:
    folder = different(tmp_path, ".a.mp4", "b.mp4")
    assert found(folder, "a.mp4") is None
    assert found(folder, ".a.mp4") == ".a.mp4"


def test_case_and_composed_letters(media: Callable[..., Path]) -> None:
    folder = media("Video1.mp4", "aBc.mp4", "abc.mp4", "cafe\u0301.mp4")
    file = MediaFolder(folder).find("video1")
    assert isinstance(file, Found)
    assert (file.path.name, file.other_case) == ("Video1.mp4", True)
    assert found(folder, "abc") == "abc.mp4"
    assert found(folder, "aBc") == "aBc.mp4"
    assert found(folder, "caf\u00e9") == "cafe\u0301.mp4"


def test_links_inside_are_followed_and_loops_end(tmp_path: Path, media: Callable[..., Path]) -> None:
    folder = media("deep/a.mp4", folder=tmp_path / "media")
    (folder / "to").symlink_to(folder / "deep")
    (folder / "b.mp4").symlink_to(folder / "deep" / "a.mp4")
    (folder / "deep" / "loop").symlink_to(folder)
    (folder / "gone.mp4").symlink_to(folder / "nothing.mp4")
    (tmp_path / "link").symlink_to(folder)
    for place in (folder, tmp_path / "link"):
        assert found(place, "a") in ("deep/a.mp4", "to/a.mp4")
        assert found(place, "b") == "b.mp4"
        assert found(place, "gone") is None
        assert MediaFolder(place).outside == []


def test_links_that_lead_out_are_not_used(tmp_path: Path) -> None:
    secret = different(tmp_path / "elsewhere", "a.mp4", "sub/b.mp4")
    folder = different(tmp_path / "media", "c.mp4")
    (folder / "a.mp4").symlink_to(secret / "a.mp4")
    (folder / "sub").symlink_to(secret / "sub")
    listed = MediaFolder(folder)
    assert sorted(listed.outside) == ["a.mp4", "sub"]
    for name in ("a", "a.mp4", "b", "sub/b.mp4", "../elsewhere/a.mp4"):
        assert listed.find(name) is None, name
    # a link that was made after the folder was listed
    (folder / "c.mp4").unlink()
    (folder / "c.mp4").symlink_to(secret / "a.mp4")
    with pytest.raises(ClipBertError, match=r"c\.mp4: is a link that leads out of"):
        listed.place(folder / "c.mp4", tmp_path / "out" / "c.mp4")


def test_no_folder(tmp_path: Path) -> None:
    with pytest.raises(ClipBertError, match="no such folder"):
        MediaFolder(tmp_path / "gone")
    with pytest.raises(ClipBertError, match="an empty folder"):
        MediaFolder(tmp_path)


def test_placing(tmp_path: Path, media: Callable[..., Path]) -> None:
    folder = media("a.mp4")
    assert not place_file(folder / "a.mp4", tmp_path / "out" / "videos" / "a.mp4")
    assert os.path.samefile(folder / "a.mp4", tmp_path / "out" / "videos" / "a.mp4")
    with pytest.raises(ClipBertError, match="disappeared, or is a broken link"):
        place_file(folder / "b.mp4", tmp_path / "out" / "b.mp4")
