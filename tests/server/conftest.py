"""A project with small models and videos, and a server that all tests of the folder share."""

from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from clipbert_server import RunningServer, running_server
from small_releases import save_model

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
