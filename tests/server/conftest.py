"""A project with small models and videos, and a server that all tests of the folder share."""

from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from clipbert_server import RunningServer, running_server
from PIL import Image
from small_releases import save_model

from clipbert import pipeline
from clipbert.search import build_index
from clipbert.search.sources import from_paths, with_metadata

TASKS = ("open_qa", "multiple_choice", "captioning", "retrieval")


@pytest.fixture(scope="session")
def served_project(tmp_path_factory: pytest.TempPathFactory, tiny_video: Callable[..., Path]) -> Path:
    """A project with a model of each kind and four videos below data/videos."""
    root = tmp_path_factory.mktemp("served project")
    for task in TASKS:
        save_model(root / "artifacts" / "models" / task, task, 0)
    for seed in range(4):
        tiny_video(root / "data" / "videos" / f"{seed}.mp4", seed=seed)
    return root


@pytest.fixture(scope="session")
def searchable_project(tmp_path_factory: pytest.TempPathFactory, tiny_video: Callable[..., Path]) -> Path:
    """A project with an index of four videos, one of which has three clips, and a picture."""
    root = tmp_path_factory.mktemp("searchable")
    for task in ("retrieval", "open_qa"):
        save_model(root / "artifacts" / "models" / task, task, 0)
    videos = root / "data" / "videos"
    for seed in range(3):
        tiny_video(videos / f"{seed}.mp4", seed=seed)
    tiny_video(videos / "sub" / "a long one.mp4", frames=48, seed=7)
    Image.new("RGB", (64, 48), (200, 30, 30)).save(videos / "red.png")
    (root / "kinds.csv").write_text("video,kind\n0.mp4,short\n1.mp4,short\n2.mp4,short\nsub/a long one.mp4,long\n")
    model = pipeline("retrieval", root / "artifacts" / "models" / "retrieval")
    sources = with_metadata(from_paths([videos]), root / "kinds.csv")
    build_index(root / "artifacts" / "search", model, sources, clip_s=2.0, title=None)
    return root


@pytest.fixture(scope="module")
def served(served_project: Path) -> Iterator[RunningServer]:
    """A server of that project with the default limits."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        with running_server(served_project) as server:
            yield server
            assert server.process.poll() is None, server.log.read_text()


@pytest.fixture(scope="module")
def http(served: RunningServer) -> Iterator[httpx.Client]:
    """A client of that server."""
    with served.client() as client:
        yield client
