"""The frames stage: incremental, the same bytes whichever way a cache came about, whole after any kill."""

import errno
import os
import shutil
import signal
import sys
from pathlib import Path

import pytest
from forked_python import fork_server
from numbered_videos import PARAMS, number_of, numbered, write_manifest, write_video

from clipbert.errors import ClipBertError
from clipbert.files.atomic import sha256_file
from clipbert.frame_cache import FrameCache, update
from clipbert.frame_cache import commit as exchange
from clipbert.frame_cache.build import CacheSummary, build_cache
from clipbert.frame_cache.index import Index, IndexWriter
from clipbert.frame_cache.shards import ShardWriter

pytestmark = pytest.mark.slow


@pytest.fixture
def run(data: Path, tmp_path: Path):
    """Build the cache of data/ as it is now; a call with `changes` changes parameters."""

    def run(repair: bool = False, **changes) -> CacheSummary:
        params = PARAMS.model_copy(update=changes)
        manifest = write_manifest(data, tmp_path / "manifest")
        return build_cache(data, manifest, tmp_path / "frames", params, workers=1, repair=repair)

    return run


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def stamps(folder: Path) -> dict[str, tuple[int, int]]:
    return {path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in folder.iterdir()}


def test_a_first_build(run, data, tmp_path, capsys):
    summary = run()
    assert (summary.media, summary.decoded, summary.reused, summary.removed) == (6, 6, 0, 0)
    assert summary.frames == 1 + 4 + 5 + 6 + 7 + 8
    assert summary.shards == len(list((tmp_path / "frames").glob("shard-*.tar"))) > 1
    assert summary.bytes == sum(len(content) for content in files_of(tmp_path / "frames").values())
    assert "6 media, 31 frames" in summary.lines()[0]
    assert "frames: 6/6" in capsys.readouterr().out
    cache = FrameCache(tmp_path / "frames")
    assert [number_of(image) for image in cache["videos/b.mp4"].images] == [42, 47, 52, 57, 62]
    assert number_of(cache["images/c.png"].images[0]) == 7
    names = {path.name for path in (tmp_path / "frames").iterdir()}
    assert names == {"index.arrow", "quarantine.jsonl", *cache.shards}
    assert {f"shard-{sha256_file(path)}.tar" for path in (tmp_path / "frames").glob("*.tar")} == set(cache.shards)


def test_a_second_build_touches_nothing(run, tmp_path):
    run()
    before = stamps(tmp_path / "frames")
    summary = run()
    assert (summary.decoded, summary.reused) == (0, 6)
    assert stamps(tmp_path / "frames") == before
    assert "nothing to do" in summary.lines()[0]


def test_two_builds_give_the_same_bytes(run, tmp_path, sample_cache):
    run()
    assert files_of(tmp_path / "frames") == files_of(sample_cache)


@pytest.mark.parametrize("names", [["a.mp4"], ["f.mp4"], ["b.mp4", "e.mp4"]])
def test_adding_and_removing_decodes_only_what_is_new(run, data, tmp_path, sample_cache, names):
    for name in names:
        shutil.move(data / "videos" / name, tmp_path / name)
    run()
    without = files_of(tmp_path / "frames")
    assert len(FrameCache(tmp_path / "frames")) == 6 - len(names)

    for name in names:
        shutil.move(tmp_path / name, data / "videos" / name)
    summary = run()
    assert (summary.decoded, summary.reused, summary.removed) == (len(names), 6 - len(names), 0)
    assert files_of(tmp_path / "frames") == files_of(sample_cache)

    for name in names:
        (data / "videos" / name).unlink()
    summary = run()
    assert (summary.decoded, summary.reused, summary.removed) == (0, 6 - len(names), len(names))
    assert files_of(tmp_path / "frames") == without


@pytest.mark.parametrize("name", ["0.mp4", "bb.mp4", "z.mp4"])
def test_an_addition_touches_its_own_shard_alone(run, data, tmp_path, name, monkeypatch):
    run()
    before = stamps(tmp_path / "frames")
    write_video(data / "videos" / name, [numbered(i) for i in range(20)])
    read = []
    pread = os.pread
    monkeypatch.setattr(os, "pread", lambda *arguments: read.append(arguments) or pread(*arguments))
    run()
    after = stamps(tmp_path / "frames")
    gone = set(before) - {name for name in before if before[name] == after.get(name)} - {"index.arrow"}
    assert len(gone - {"quarantine.jsonl"}) <= 1
    assert len(read) <= 3, "kept shards are not read"
    (data / "videos" / name).unlink()
    run()
    assert set(stamps(tmp_path / "frames")) == set(before)


def test_a_changed_file_is_decoded_again(run, data, tmp_path):
    run()
    write_video(data / "videos" / "b.mp4", [numbered(200 + i) for i in range(20)])
    summary = run()
    assert (summary.decoded, summary.reused, summary.removed) == (1, 5, 0)
    assert number_of(FrameCache(tmp_path / "frames")["videos/b.mp4"].images[0]) == 202
    incremental = files_of(tmp_path / "frames")
    shutil.rmtree(tmp_path / "frames")
    run()
    assert files_of(tmp_path / "frames") == incremental


@pytest.mark.parametrize("change", [{"fps": 4.0}, {"size": 24}, {"quality": 50}, {"max_frames": 3}])
def test_changed_parameters_start_clean(run, tmp_path, sample_cache, change, capsys):
    shutil.copytree(sample_cache, tmp_path / "frames")
    summary = run(**change)
    assert summary.decoded == 6
    name, value = next(iter(change.items()))
    assert f"{name} {getattr(PARAMS, name)} -> {value}: decoding everything again" in capsys.readouterr().out
    assert FrameCache(tmp_path / "frames").settings[name] == value
    assert run().decoded == 6
    assert files_of(tmp_path / "frames") == files_of(sample_cache)


def test_another_shard_size_decodes_nothing(run, tmp_path, sample_cache):
    shutil.copytree(sample_cache, tmp_path / "frames")
    summary = run(shard_mb=64.0)
    assert (summary.decoded, summary.shards) == (0, 1)
    assert run().decoded == 0
    assert files_of(tmp_path / "frames") == files_of(sample_cache)


def test_workers_do_not_change_the_bytes(data, tmp_path, sample_cache):
    manifest = write_manifest(data, tmp_path / "manifest")
    build_cache(data, manifest, tmp_path / "frames", PARAMS, workers=3)
    assert files_of(tmp_path / "frames") == files_of(sample_cache)


@pytest.mark.parametrize(
    "damage", ["frame", "header", "trailer", "truncated", "missing", "stray", "index", "index row", "no index"]
)
def test_whatever_is_damaged_is_mended(run, tmp_path, sample_cache, damage):
    out = Path(shutil.copytree(sample_cache, tmp_path / "frames"))
    entry = Index(out / "index.arrow")[2]
    shard = out / entry.shard
    content = bytearray(shard.read_bytes())
    if damage in ("frame", "header", "trailer"):
        content[{"frame": entry.frame_offsets[0] + 99, "header": entry.offset + 5, "trailer": -3}[damage]] ^= 0xFF
        shard.write_bytes(content)
    elif damage == "truncated":
        shard.write_bytes(content[: entry.offset + 100])
    elif damage == "missing":
        shard.unlink()
    elif damage == "stray":
        (out / "shard-99.tar").write_bytes(b"")
    elif damage == "index":
        (out / "index.arrow").write_bytes(b"nonsense")
    elif damage == "index row":
        content = bytearray((out / "index.arrow").read_bytes())
        content[content.index(b"videos/b.mp4") + 7] ^= 0x01
        (out / "index.arrow").write_bytes(content)
    else:
        (out / "index.arrow").unlink()
    summary = run(repair=damage in ("frame", "header", "trailer"))
    assert files_of(out) == files_of(sample_cache)
    if damage in ("index", "index row", "no index", "stray"):
        assert summary.decoded == 0, "shards say themselves what they hold"
    if damage in ("frame", "header"):
        assert (summary.damaged, summary.decoded) == (1, 1)
        assert "1 entries were damaged" in summary.lines()[1]


def test_what_cannot_be_decoded_fails_the_stage_and_loses_nothing(run, data, tmp_path, sample_cache):
    out = Path(shutil.copytree(sample_cache, tmp_path / "frames"))
    (data / "videos" / "bad.mp4").write_bytes(b"not a video" * 100)
    write_video(data / "videos" / "good.mp4", [numbered(i) for i in range(20)])
    with pytest.raises(ClipBertError) as caught:
        run()
    message = str(caught.value)
    assert "1 of 8 media could not be decoded" in message
    assert "videos/bad.mp4: unreadable: videos/bad.mp4: cannot be decoded" in message
    assert "ingest.max_quarantined_fraction = 0.05" in message
    assert {name: content for name, content in files_of(out).items() if "/" not in name} == files_of(sample_cache)
    assert len(FrameCache(out)) == 6

    (data / "videos" / "bad.mp4").unlink()
    summary = run()
    assert (summary.media, summary.decoded) == (7, 0)
    assert all(not path.name.startswith(".") for path in out.iterdir())


def test_a_file_that_takes_too_long_is_named(run):
    with pytest.raises(
        ClipBertError, match=r"images/c\.png: timeout: .*took longer than 0\.001 s(?s:.*)frames\.timeout_s"
    ):
        run(timeout_s=0.001)


@pytest.mark.parametrize(
    ("where", "old"), [("first shard", False), ("later shard", True), ("committing", True), ("index", True)]
)
def test_a_full_disk_leaves_the_old_cache(run, data, tmp_path, monkeypatch, sample_cache, where, old):
    out = tmp_path / "frames"
    if old:
        shutil.copytree(sample_cache, out)
    for name in ("x.mp4", "y.mp4"):
        write_video(data / "videos" / name, [numbered(i) for i in range(20)])

    def full(*arguments):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    add = ShardWriter.add
    calls = 0

    def failing_add(self, packed):
        nonlocal calls
        calls += 1
        if where == "first shard" or (where == "later shard" and calls == 2):
            full()
        return add(self, packed)

    with monkeypatch.context() as patch:
        patch.setattr(ShardWriter, "add", failing_add)
        if where == "committing":
            patch.setattr(update, "commit", full)
        if where == "index":
            patch.setattr(IndexWriter, "close", full)
        with pytest.raises(ClipBertError, match=r"frames: no space left on the device .* nothing was changed"):
            run()
    if old:
        assert files_of(out) == files_of(sample_cache)
        assert {path.name for path in out.iterdir()} == set(files_of(sample_cache))
    else:
        assert not out.exists()
    assert run().media == 8


def test_two_builds_at_once_do_not_mix(run, tmp_path):
    with exchange.exclusive(tmp_path / "frames"), pytest.raises(ClipBertError, match="another `clipbert frames` is"):
        run()
    assert run().media == 6


def test_a_folder_of_something_else_is_left_alone(run, tmp_path):
    (tmp_path / "frames").mkdir()
    (tmp_path / "frames" / "thesis.doc").write_text("years of work")
    with pytest.raises(ClipBertError, match="holds other files than a frame cache"):
        run()
    assert files_of(tmp_path / "frames") == {"thesis.doc": b"years of work"}


def test_an_empty_manifest_and_none_are_said(run, data, tmp_path):
    with pytest.raises(ClipBertError, match="clipbert ingest"):
        build_cache(data, tmp_path / "nothing", tmp_path / "frames", PARAMS)
    shutil.rmtree(data)
    with pytest.raises(ClipBertError, match="the manifest holds no media"):
        run()
    assert not (tmp_path / "frames").exists()


def _build_and_die(arguments: tuple[Path, Path, Path], change: int | None, added: int | None) -> None:
    """Build and be killed before the `change`-th change to the cache's files, or when `added` entries are written."""
    out, left = str(arguments[2]), change
    changing = {"os.rename": 2, "os.remove": 1, "os.link": 2, "os.mkdir": 1, "os.rmdir": 1}

    def watch(event, details):
        nonlocal left
        if left is None or (event not in changing and event != "open"):
            return
        writing = event == "open" and set(str(details[1])) & set("wxa+")
        inside = any(out + "/" in str(path) for path in details[: changing.get(event, 1)])
        within_rmtree = event in ("os.remove", "os.rmdir") and details[-1] != -1
        if (writing or event in changing) and (inside or within_rmtree):
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    add, count = ShardWriter.add, 0

    def dying_add(self, packed):
        nonlocal count
        where = add(self, packed)
        count += 1
        if count == added:
            os.kill(os.getpid(), signal.SIGKILL)
        return where

    sys.addaudithook(watch)
    ShardWriter.add = dying_add  # type: ignore[method-assign]
    build_cache(*arguments, PARAMS, workers=1)


def was_killed(arguments: tuple[Path, Path, Path], change: int | None = None, added: int | None = None) -> bool:
    process = fork_server().Process(target=_build_and_die, args=(arguments, change, added))
    process.start()
    process.join()
    assert process.exitcode in (0, -signal.SIGKILL)
    return process.exitcode != 0


def test_killed_while_decoding_goes_on_where_it_was(data, tmp_path, sample_cache):
    arguments = data, write_manifest(data, tmp_path / "manifest"), tmp_path / "frames"
    assert was_killed(arguments, added=4)
    with pytest.raises(ClipBertError, match="no frame cache here"):
        FrameCache(tmp_path / "frames")
    summary = build_cache(*arguments, PARAMS, workers=1)
    assert (summary.decoded, summary.reused) == (2, 4)
    assert files_of(tmp_path / "frames") == files_of(sample_cache)
    assert set(stamps(tmp_path / "frames")) == set(files_of(sample_cache))


def test_killed_at_any_change_to_the_files(data, tmp_path, run, sample_cache):
    """The hardest case: old entries kept, moved and dropped, new ones waiting in `.decoded/` from a run that failed."""
    start = Path(shutil.copytree(sample_cache, tmp_path / "frames")).rename(tmp_path / "start")
    for name in ("aa.mp4", "z.mp4"):
        write_video(data / "videos" / name, [numbered(i) for i in range(20)])
    (data / "videos" / "bad.mp4").write_bytes(b"not a video")
    shutil.copytree(start, tmp_path / "frames")
    with pytest.raises(ClipBertError, match="1 of 9 media"):
        run()
    shutil.rmtree(start)
    (tmp_path / "frames").rename(start)
    for name in ("bad.mp4", "b.mp4"):
        (data / "videos" / name).unlink()
    arguments = data, write_manifest(data, tmp_path / "manifest"), tmp_path / "frames"
    shutil.copytree(start, tmp_path / "frames")
    assert build_cache(*arguments, PARAMS).decoded == 0
    expected = files_of(tmp_path / "frames")

    whole, points = {"old": 0, "new": 0}, 0
    while True:
        shutil.rmtree(tmp_path / "frames")
        shutil.copytree(start, tmp_path / "frames")
        points += 1
        if not was_killed(arguments, change=points):
            break
        cache = FrameCache(tmp_path / "frames")
        assert all(len(cache[media].images) for media in cache)
        whole["old" if "videos/b.mp4" in cache else "new"] += 1
        assert build_cache(*arguments, PARAMS).decoded == 0
        assert files_of(tmp_path / "frames") == expected
        assert set(stamps(tmp_path / "frames")) == set(expected)
    assert min(whole.values()) > 2, whole
