"""Media and caches on an object store: a real S3 server in a process of its own."""

import multiprocessing
import pickle
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import fsspec
import numpy as np
import pytest
from numbered_videos import PARAMS, numbered, write_manifest, write_video

from clipbert.errors import ClipBertError
from clipbert.frame_cache import CorruptShardError, FrameCache
from clipbert.frame_cache.build import build_cache


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """The address of an S3 server, and the environment to use it."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    log = (tmp_path_factory.mktemp("s3") / "log").open("wb")
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    process = subprocess.Popen(command, stdout=log, stderr=log)
    for _ in range(300):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                break
        time.sleep(0.1)
    settings = {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_MAX_ATTEMPTS": "1",
        "XDG_CACHE_HOME": str(tmp_path_factory.mktemp("home")),
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in settings.items():
            patch.setenv(name, value)
        yield port
    process.kill()
    process.wait()


@pytest.fixture
def bucket(server, request) -> str:
    """A new bucket."""
    name = "".join(c if c.isalnum() else "-" for c in request.node.name.lower()).strip("-")[:60]
    system = fsspec.filesystem("s3", skip_instance_cache=True)
    system.mkdir(name)
    return f"s3://{name}"


def listing(url: str) -> dict[str, object]:
    system = fsspec.filesystem("s3", skip_instance_cache=True)
    return {file["name"].rsplit("/", 1)[-1]: file["ETag"] for file in system.ls(url, detail=True, refresh=True)}


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_media_are_fetched_checked_and_deleted(sample, sample_cache, bucket, tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    system = fsspec.filesystem("s3", skip_instance_cache=True)
    system.put(str(sample), f"{bucket}/set", recursive=True)
    manifest = write_manifest(sample, tmp_path / "manifest")
    params = PARAMS.model_copy(update={"media_url": f"{bucket}/set"})
    build_cache(tmp_path / "nowhere", manifest, tmp_path / "frames", params, workers=1)
    assert files_of(tmp_path / "frames") == files_of(sample_cache)
    assert not list(tmp_path.glob("clipbert-*"))


@pytest.mark.parametrize("trouble", ["missing", "changed", "unreachable", "protocol"])
def test_what_cannot_be_fetched_is_said_and_not_quarantined(sample, bucket, tmp_path, trouble, monkeypatch):
    system = fsspec.filesystem("s3", skip_instance_cache=True)
    system.put(str(sample), f"{bucket}/set", recursive=True)
    manifest = write_manifest(sample, tmp_path / "manifest")
    url, message = f"{bucket}/set", ""
    if trouble == "missing":
        system.rm_file(f"{bucket}/set/videos/d.mp4")
        message = rf"{url}/videos/d\.mp4: no such file there"
    elif trouble == "changed":
        system.pipe_file(f"{bucket}/set/videos/d.mp4", b"something else")
        message = rf"{url}/videos/d\.mp4: not the file that ingest saw .*clipbert ingest"
    elif trouble == "unreachable":
        monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
        message = rf"{url}/images/c\.png: cannot be reached \(.*docs/how-to/cluster\.md"
    else:
        url = "nonsense://somewhere"
        message = r"nonsense://somewhere/images/c\.png: .*nonsense"
    params = PARAMS.model_copy(update={"media_url": url})
    with pytest.raises(ClipBertError, match=message):
        build_cache(tmp_path / "nowhere", manifest, tmp_path / "frames", params, workers=1)


def test_a_cache_is_published_and_read_from_its_address(data, bucket, tmp_path):
    url = f"{bucket}/frames"
    params = PARAMS.model_copy(update={"cache_url": url})

    def run():
        return build_cache(data, write_manifest(data, tmp_path / "manifest"), tmp_path / "frames", params, workers=1)

    assert run().sent == len(list((tmp_path / "frames").glob("*.tar")))
    local, remote = FrameCache(tmp_path / "frames"), FrameCache(url)
    assert remote.media == local.media
    assert remote.quarantined == []
    for media in local:
        assert (remote[media].images == local[media].images).all()
        assert (remote[media].times == local[media].times).all()
    assert (remote.read("videos/f.mp4", [3, 1, 3]) == local.read("videos/f.mp4", [3, 1, 3])).all()
    before = listing(url)
    assert run().sent == 0
    assert listing(url) == before

    write_video(data / "videos" / "z.mp4", [numbered(i) for i in range(20)])
    summary = run()
    after = listing(url)
    assert summary.sent == 1 or summary.sent == len(set(after) - set(before))
    assert {name for name in before if after.get(name) != before[name]} == {"index.arrow"}
    old = remote.read("videos/a.mp4", [0])
    assert (old == local.read("videos/a.mp4", [0])).all(), "a reader of the cache before continues"
    assert "videos/z.mp4" not in remote
    assert "videos/z.mp4" in FrameCache(url)

    (data / "videos" / "a.mp4").unlink()
    run()
    (data / "videos" / "b.mp4").unlink()
    run()
    names = {name for name in listing(url) if name.endswith(".tar")}
    kept = {path.name for path in (tmp_path / "frames").glob("*.tar")}
    assert kept < names
    assert len(names - kept) <= 2, "only what the last index needed is kept"


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_published_cache_is_read_in_other_processes(sample_cache, bucket, method):
    system = fsspec.filesystem("s3", skip_instance_cache=True)
    system.put(str(sample_cache) + "/", f"{bucket}/frames/", recursive=True)
    cache = FrameCache(f"{bucket}/frames")
    expected = [cache.read(media, [0]) for media in cache]
    assert len(pickle.dumps(cache)) < 500
    with multiprocessing.get_context(method).Pool(2) as pool:
        found = pool.starmap(cache.read, [(media, [0]) for media in cache] * 3)
    assert all(np.array_equal(a, b) for a, b in zip(found, expected * 3, strict=True))


def test_what_is_wrong_at_the_address_is_said(sample_cache, bucket, tmp_path, monkeypatch):
    with pytest.raises(ClipBertError, match=rf"{bucket}/frames/index\.arrow: no such file there"):
        FrameCache(f"{bucket}/frames")
    folder = Path(shutil.copytree(sample_cache, tmp_path / "frames"))
    cache = FrameCache(folder)
    shards = cache.shards
    damaged = bytearray((folder / shards[1]).read_bytes())
    first = next(entry for entry in cache._index if entry.shard == shards[1])
    damaged[int(first.frame_offsets[0]) + 40] ^= 1
    (folder / shards[1]).write_bytes(damaged)
    (folder / shards[0]).unlink()
    system = fsspec.filesystem("s3", skip_instance_cache=True)
    system.put(str(folder) + "/", f"{bucket}/frames/", recursive=True)
    remote = FrameCache(f"{bucket}/frames")
    with pytest.raises(
        CorruptShardError, match=rf"{bucket}/frames/{shards[1]}: frame 0 fails .*{first.media}.*publish"
    ):
        _ = remote[first.media].images
    with pytest.raises(CorruptShardError, match=rf"{shards[0]}: the shard is missing"):
        _ = remote[remote.media[0]].images
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    system.clear_instance_cache()
    with pytest.raises(ClipBertError, match=r"index\.arrow: cannot be reached"):
        FrameCache(f"{bucket}/frames")
    system.clear_instance_cache()
