"""Decoding on a real dask cluster of this machine: the bytes of a local build, whoever dies on the way."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from numbered_videos import PARAMS, numbered, write_manifest, write_video

from clipbert.errors import ClipBertError
from clipbert.frame_cache import FrameCache
from clipbert.frame_cache.build import build_cache
from clipbert.frame_cache.cluster import open_cluster
from clipbert.frame_cache.shards import ShardWriter
from flows.servers import free_port

pytestmark = pytest.mark.slow


class Cluster:
    """A scheduler and its workers, each a process."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self.workers: list[subprocess.Popen[bytes]] = []
        self.scheduler = self._start("scheduler", "--host", "127.0.0.1", "--port", str(self.port))
        self.params = PARAMS.model_copy(update={"executor": f"dask://127.0.0.1:{self.port}"})

    def _start(self, role: str, *arguments: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", f"distributed.cli.dask_{role}", *arguments, "--no-dashboard"]
        log = (self.folder / f"{role}.log").open("ab")
        return subprocess.Popen(command, stdout=log, stderr=log, cwd=self.folder)

    def add_worker(self) -> subprocess.Popen[bytes]:
        options = ["--no-nanny", "--nthreads", "1", "--local-directory", str(self.folder)]
        self.workers.append(self._start("worker", f"127.0.0.1:{self.port}", *options))
        return self.workers[-1]

    def stop(self) -> None:
        for process in (*self.workers, self.scheduler):
            process.kill()
            process.wait()


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    made = Cluster(tmp_path_factory.mktemp("cluster"))
    made.add_worker()
    made.add_worker()
    with open_cluster(made.params) as executor:
        executor.client.wait_for_workers(2, timeout=30)
    yield made
    made.stop()


@pytest.fixture(scope="module")
def many(tmp_path_factory) -> Path:
    """data/ with twenty videos, and one that cannot be decoded."""
    data = tmp_path_factory.mktemp("many") / "data"
    for number in range(20):
        write_video(data / "videos" / f"{number}.mp4", [numbered(10 * number + i) for i in range(10)])
    (data / "videos" / "bad.mp4").write_bytes(b"not a video")
    return data


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_worker_killed_in_the_middle_changes_nothing(cluster, many, tmp_path, monkeypatch):
    manifest = write_manifest(many, tmp_path / "manifest")
    build_cache(many, manifest, tmp_path / "local", PARAMS, workers=1)
    add, count = ShardWriter.add, 0

    def killing_add(self, packed):
        nonlocal count
        count += 1
        if count == 4:
            cluster.workers[0].send_signal(signal.SIGKILL)
            cluster.workers[0].wait()
        return add(self, packed)

    with monkeypatch.context() as patch:
        patch.setattr(ShardWriter, "add", killing_add)
        summary = build_cache(many, manifest, tmp_path / "frames", cluster.params)
    assert (summary.media, summary.decoded, summary.quarantined) == (20, 20, 1)
    assert files_of(tmp_path / "frames") == files_of(tmp_path / "local")
    assert len(FrameCache(tmp_path / "frames")["videos/7.mp4"].times) == 2


def test_workers_that_do_not_see_the_files_are_named(cluster, many, tmp_path):
    manifest = write_manifest(many, tmp_path / "manifest")
    with pytest.raises(ClipBertError, match=r"(?s)dask worker tcp://.*nowhere.*no such file.*frames\.media_url"):
        build_cache(tmp_path / "nowhere", manifest, tmp_path / "frames", cluster.params)


def test_a_scheduler_that_does_not_answer_is_named(many, tmp_path):
    params = PARAMS.model_copy(update={"executor": f"dask://127.0.0.1:{free_port()}"})
    with pytest.raises(ClipBertError, match=r"dask://127.*no dask scheduler answers"), open_cluster(params, 1.0):
        pass


def test_a_scheduler_without_workers_and_one_that_dies(many, tmp_path, monkeypatch):
    cluster = Cluster(tmp_path)
    try:
        with pytest.raises(ClipBertError, match="has had no workers"), open_cluster(cluster.params, 10.0):
            pass
        cluster.add_worker()
        manifest = write_manifest(many, tmp_path / "manifest")
        add = ShardWriter.add

        def killing_add(self, packed):
            cluster.scheduler.kill()
            cluster.scheduler.wait()
            return add(self, packed)

        monkeypatch.setattr(ShardWriter, "add", killing_add)
        with pytest.raises(ClipBertError, match="connection to the scheduler was lost"):
            build_cache(many, manifest, tmp_path / "frames", cluster.params)
        assert os.listdir(tmp_path / "frames") == [".next"]
    finally:
        cluster.stop()
