"""Atomic writes of files and folders, and removal of temporary files after kills."""

import errno
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from params_file import write_params
from typer.testing import CliRunner

from clipbert.cli.main import app
from clipbert.errors import ClipBertError
from clipbert.files.atomic import atomic_directory, atomic_write, sha256_file, write_json
from clipbert.files.leftovers import remove_scratch_folders, remove_stale_temporaries, scratch_folder, umask


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


READER = """
import os, sys
path, stop = sys.argv[1:]
seen, missing = set(), 0
print("ready", flush=True)
while not os.path.exists(stop):
    try:
        folder = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        missing += 1
        continue
    try:
        file = os.open("content", os.O_RDONLY, dir_fd=folder)
        seen.add(os.read(file, 100))
        os.close(file)
    except FileNotFoundError:
        pass  # the old folder, opened before the exchange and emptied after it
    os.close(folder)
print(len(seen), missing)
"""


@pytest.mark.slow
def test_a_reader_never_misses_a_folder_that_is_replaced_1000_times(tmp_path: Path) -> None:
    path, stop = tmp_path / "folder", tmp_path / "stop"
    with atomic_directory(path) as folder:
        (folder / "content").write_text("start")
    reader = subprocess.Popen([sys.executable, "-c", READER, str(path), str(stop)], stdout=subprocess.PIPE, text=True)
    assert reader.stdout is not None
    assert reader.stdout.readline() == "ready\n"
    for number in range(1000):
        with atomic_directory(path) as folder:
            (folder / "content").write_text(str(number))
    stop.touch()
    seen, missing = map(int, reader.communicate(timeout=60)[0].split())
    assert missing == 0
    assert seen > 10
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["folder", "stop"]


KILLED = """
import os, signal, sys
from pathlib import Path
from clipbert.files import atomic
path, wanted, fallback = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3] == "fallback"
calls = 0

def watched(call):
    def run(*arguments, **named):
        global calls
        calls += 1
        if calls == wanted:
            os.kill(os.getpid(), signal.SIGKILL)
        return call(*arguments, **named)
    return run

if fallback:
    atomic.exchange = lambda first, second: False
else:
    atomic.exchange = watched(atomic.exchange)
for name in ("mkdir", "fsync", "rename", "replace", "rmdir", "unlink", "open"):
    setattr(os, name, watched(getattr(os, name)))
with atomic.atomic_directory(path) as folder:
    (folder / "content").write_text("new")
"""


@pytest.mark.slow
@pytest.mark.parametrize("way", ["exchange", "fallback"])
def test_a_kill_at_any_step_leaves_the_old_folder_or_the_new_one(tmp_path: Path, way: str) -> None:
    """With an exchange right after the kill, without one after the next cleanup; no other file stays."""
    path = tmp_path / "folder"
    contents, codes, step = set(), set(), 0
    while 0 not in codes:
        step += 1
        shutil.rmtree(path, ignore_errors=True)
        path.mkdir()
        (path / "content").write_text("old")
        codes.add(subprocess.run([sys.executable, "-c", KILLED, str(path), str(step), way]).returncode)
        if way == "exchange":
            assert (path / "content").read_text() in ("old", "new")
        remove_stale_temporaries([tmp_path])
        contents.add((path / "content").read_text())
        assert [entry.name for entry in tmp_path.iterdir()] == ["folder"]
    assert codes == {-signal.SIGKILL, 0}
    assert contents == {"old", "new"}
    assert step > 8


HOLDS = """
import sys, time
from pathlib import Path
from clipbert.files.atomic import atomic_directory, atomic_write
with atomic_directory(Path(sys.argv[1], "folder")) as folder, atomic_write(Path(sys.argv[1], "file")) as file:
    (folder / "content").write_text("x")
    print("holding", flush=True)
    time.sleep(600)
"""


@pytest.mark.slow
def test_leftovers_of_the_dead_are_removed_and_the_living_keep_theirs(tmp_path: Path) -> None:
    holder = subprocess.Popen([sys.executable, "-c", HOLDS, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "holding\n"
    used = sorted(tmp_path.iterdir())
    assert len(used) == 2
    (tmp_path / ".mine.tmp").write_text("not named as ours")
    try:
        assert remove_stale_temporaries([tmp_path]) == []
        with atomic_write(tmp_path / "file", "w") as file:  # the same target, written by another process
            file.write("y")
        assert sorted(path for path in tmp_path.iterdir() if path.suffix == ".tmp" and path in used) == used
    finally:
        holder.kill()
        holder.communicate()
    assert sorted(remove_stale_temporaries([tmp_path])) == used
    assert sorted(path.name for path in tmp_path.iterdir()) == [".mine.tmp", "file"]


def test_scratch_folders_of_the_dead_are_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with scratch_folder() as mine:
        dead = tmp_path / "clipbert-0123456789abcdef"
        dead.mkdir()
        (dead / "file").touch()
        other = tmp_path / "clipbert-notes"
        other.mkdir()
        assert remove_scratch_folders() == [dead]
        assert sorted(tmp_path.iterdir()) == sorted([mine, other])
    assert not mine.exists()


@pytest.mark.parametrize(("mask", "file_mode", "folder_mode"), [(0o022, 0o644, 0o755), (0o002, 0o664, 0o775)])
def test_files_and_folders_follow_the_umask(tmp_path: Path, mask: int, file_mode: int, folder_mode: int) -> None:
    before = os.umask(mask)
    try:
        write_json(tmp_path / "a.json", 1)
        with atomic_directory(tmp_path / "folder"):
            pass
        assert umask() == mask
    finally:
        os.umask(before)
    assert (tmp_path / "a.json").stat().st_mode & 0o777 == file_mode
    assert (tmp_path / "folder").stat().st_mode & 0o777 == folder_mode


def test_a_folder_behind_a_link_is_replaced_and_the_link_stays(tmp_path: Path) -> None:
    elsewhere, path = tmp_path / "elsewhere" / "folder", tmp_path / "link"
    elsewhere.mkdir(parents=True)
    path.symlink_to(elsewhere)
    with atomic_directory(path) as folder:
        (folder / "new").touch()
    assert path.is_symlink()
    assert [entry.name for entry in elsewhere.iterdir()] == ["new"]


def test_a_file_in_the_place_of_a_folder_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "folder").write_text("mine")
    with (
        pytest.raises(ClipBertError, match=r"folder: is a file; expected a folder"),
        atomic_directory(tmp_path / "folder"),
    ):
        pass
    assert (tmp_path / "folder").read_text() == "mine"


def test_the_next_verb_removes_what_a_killed_one_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_params(tmp_path)
    folder = tmp_path / "artifacts" / "models"
    (folder / ".retrieval.0a1b2c3d.tmp").mkdir(parents=True)
    (folder / ".retrieval.0a1b2c3d.tmp" / "model.safetensors").write_text("half")
    (tmp_path / ".data.0a1b2c3d.tmp").mkdir()
    monkeypatch.chdir(tmp_path)
    CliRunner().invoke(app, ["params"], catch_exceptions=False)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["artifacts", "models", "params.yaml"]
