"""A small library with its model: eight videos, of which one has several clips, and a picture."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from small_releases import save_model

from clipbert import pipeline
from clipbert.search import VideoSource, build_index
from clipbert.search.sources import from_paths


@pytest.fixture(scope="session")
def retrieval_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("model") / "retrieval", "retrieval", 0)


@pytest.fixture(scope="session")
def search_model(retrieval_folder: Path) -> Any:
    return pipeline("retrieval", retrieval_folder)


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory, tiny_video: Callable[..., Path]) -> Path:
    """A folder of videos of 2 s, one of 6 s, and a picture."""
    folder = tmp_path_factory.mktemp("library")
    for number in range(7):
        tiny_video(folder / f"{number}.mp4", seed=number)
    tiny_video(folder / "sub" / "long.mp4", frames=48, seed=7)
    Image.new("RGB", (64, 48), (200, 30, 30)).save(folder / "red.png")
    return folder


@pytest.fixture(scope="session")
def sources(library: Path) -> list[VideoSource]:
    return from_paths([library])


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory, search_model: Any, sources: list[VideoSource]) -> Path:
    """An index of the library with clips of at most 2 s; do not change it."""
    folder = tmp_path_factory.mktemp("built") / "search"
    build_index(folder, search_model, sources, clip_s=2.0, title=None)
    return folder


@pytest.fixture
def index_copy(built: Path, tmp_path: Path) -> Path:
    """A copy of the index to change."""
    shutil.copytree(built, tmp_path / "search")
    return tmp_path / "search"
