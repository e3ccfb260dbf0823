"""A data folder of tiny videos and its frame cache."""

import shutil
from pathlib import Path

import pytest
from numbered_videos import PARAMS, numbered, write_manifest, write_video
from PIL import Image

from clipbert.frame_cache.build import build_cache


@pytest.fixture(scope="session")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five short videos and a picture below a folder; not to be changed."""
    folder = tmp_path_factory.mktemp("sample") / "data"
    for number, name in enumerate(["a.mp4", "b.mp4", "d.mp4", "e.mp4", "f.mp4"]):
        write_video(folder / "videos" / name, [numbered(40 * number + i) for i in range(20 + 5 * number)])
    (folder / "images").mkdir()
    Image.fromarray(numbered(7)).save(folder / "images" / "c.png")
    return folder


@pytest.fixture(scope="session")
def sample_cache(sample: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The cache of `sample`; not to be changed."""
    folder = tmp_path_factory.mktemp("cache")
    build_cache(sample, write_manifest(sample, folder / "manifest"), folder / "frames", PARAMS, workers=1)
    return folder / "frames"


@pytest.fixture
def data(sample: Path, tmp_path: Path) -> Path:
    """A copy of `sample`."""
    return Path(shutil.copytree(sample, tmp_path / "data"))


@pytest.fixture
def cache_dir(sample_cache: Path, tmp_path: Path) -> Path:
    """A copy of `sample_cache`."""
    return Path(shutil.copytree(sample_cache, tmp_path / "frames"))
