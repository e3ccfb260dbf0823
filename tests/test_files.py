"""Files that are whole or absent."""

import errno
import os
from pathlib import Path

import pytest

from clipbert.errors import ClipBertError
from clipbert.files import atomic_directory, atomic_write, sha256_file, write_json


def test_a_file_appears_whole_and_nothing_else_stays(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "a.json"
    write_json(path, {"b": 1, "a": "ü"})
    assert path.read_text() == '{\n  "a": "ü",\n  "b": 1\n}\n'
    assert [p.name for p in path.parent.iterdir()] == ["a.json"]
    assert path.stat().st_mode & 0o777 == 0o644


def test_an_error_in_the_middle_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")

    def fail() -> None:
        with atomic_write(path, "w") as file:
            file.write("new")
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError):
        fail()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_is_said_and_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def fail() -> None:
        with atomic_write(path, "w"):
            raise full

    with pytest.raises(ClipBertError, match=r"a\.txt: no space left on the device .* Free some space"):
        fail()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "folder"
    for content in ("one", "two"):
        with atomic_directory(path) as folder:
            (folder / f"{content}.txt").write_text(content)
    assert [p.name for p in path.iterdir()] == ["two.txt"]
    assert list(tmp_path.iterdir()) == [path]


def test_an_error_leaves_the_old_folder(tmp_path: Path) -> None:
    path = tmp_path / "folder"
    with atomic_directory(path) as folder:
        (folder / "old.txt").write_text("old")

    def fail() -> None:
        with atomic_directory(path) as folder:
            (folder / "new.txt").write_text("new")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert [p.name for p in path.iterdir()] == ["old.txt"]
    assert list(tmp_path.iterdir()) == [path]


def test_the_checksum_is_that_of_the_bytes(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"abc")
    assert sha256_file(path) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
