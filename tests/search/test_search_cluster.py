"""Vectors that are made on a real dask cluster of this machine are those that are made here."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clipbert.errors import ClipBertError
from clipbert.frame_cache.cluster import open_cluster
from clipbert.search import SearchIndex, VideoSource, build_index
from clipbert.search.encode import settings_of
from clipbert.search.executors import ClusterExecutor
from flows.servers import free_port

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A scheduler with one worker."""
    folder, port = tmp_path_factory.mktemp("cluster"), free_port()
    log = (folder / "log").open("ab")
    scheduler = ["scheduler", "--host", "127.0.0.1", "--port", str(port)]
    worker = ["worker", f"127.0.0.1:{port}", "--no-nanny", "--nthreads", "2", "--local-directory", str(folder)]
    started = [
        subprocess.Popen(
            [sys.executable, "-m", f"distributed.cli.dask_{arguments[0]}", *arguments[1:], "--no-dashboard"],
            stdout=log,
            stderr=log,
        )
        for arguments in (scheduler, worker)
    ]
    yield f"dask://127.0.0.1:{port}"
    for process in started:
        process.kill()
        process.wait()


def test_a_cluster_makes_the_same_index(
    built: Path, search_model: Any, sources: list[VideoSource], tmp_path: Path, address: str
) -> None:
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"no video")
    params = search_model.frames.model_copy(update={"executor": address})
    settings = settings_of(search_model, 2.0)
    with open_cluster(params, connect_s=60.0, command="clipbert index build") as dask:
        executor = ClusterExecutor(dask, search_model, settings)
        videos = [*sources, VideoSource("broken.mp4", broken)]
        result = build_index(tmp_path / "search", search_model, videos, clip_s=2.0, executor=executor, title=None)
    assert (result.added, [each.video_id for each in result.failures]) == (len(sources), ["broken.mp4"])
    here, there = SearchIndex.open(built), SearchIndex.open(tmp_path / "search")
    assert there.video_ids() == here.video_ids()
    text = "a red square moves left"
    expected = {hit.video_id: hit.score for hit in here.search(search_model, text, k=20)}
    found = {hit.video_id: hit.score for hit in there.search(search_model, text, k=20)}
    assert found == pytest.approx(expected, abs=1e-2)
    vectors = [np.concatenate(list(index.segments[0].vectors.blocks())) for index in (here, there)]
    assert np.abs(vectors[0].astype(np.float32) - vectors[1].astype(np.float32)).max() < 2e-3


def test_a_worker_with_another_model(
    search_model: Any, sources: list[VideoSource], tmp_path: Path, address: str
) -> None:
    from dataclasses import replace

    params = search_model.frames.model_copy(update={"executor": address})
    settings = settings_of(search_model, 2.0)
    with open_cluster(params, connect_s=60.0) as dask:
        executor = ClusterExecutor(dask, search_model, replace(settings, model="0" * 64))
        with pytest.raises(ClipBertError, match="this worker has another model there"):
            build_index(tmp_path / "search", search_model, sources, clip_s=2.0, executor=executor, title=None)
