"""What the adapters' tests share: media by name, an import that leaves nothing behind when it fails, the real files."""

import json
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from clipbert.data.importers.base import Source
from clipbert.data.importers.summary import ImportSummary
from clipbert.errors import ClipBertError

Media = Callable[..., Path]


@pytest.fixture(scope="session")
def tiny_file(tmp_path_factory: pytest.TempPathFactory, tiny_video: Callable[..., Path]) -> Callable[[str], Path]:
    """One real file of each kind: a video, or an image."""
    folder = tmp_path_factory.mktemp("tiny_file")

    def make(suffix: str) -> Path:
        made = folder / f"one{suffix}"
        if not made.exists() and suffix == ".jpg":
            Image.new("RGB", (32, 24), "teal").save(made)
        elif not made.exists():
            tiny_video(made)
        return made

    return make


@pytest.fixture
def media(tmp_path: Path, tiny_file: Callable[[str], Path]) -> Media:
    """`media("a.mp4", "deep/b.jpg")` makes a folder of such files, each a link to one real file of its kind."""

    def make(*names: str, folder: Path = tmp_path / "media") -> Path:
        folder.mkdir(exist_ok=True)
        for name in names:
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if not path.exists():
                os.link(tiny_file(".jpg" if path.suffix == ".jpg" else ".mp4"), path)
        return folder

    return make


@pytest.fixture
def annotated(tmp_path: Path) -> Callable[..., Path]:
    """`annotated("train.json", value)` writes a file of annotations: JSON, or text and bytes as they are."""

    def write(name: str, content: Any, folder: str = "annotations") -> Path:
        path = tmp_path / folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, bytes):
            path.write_bytes(content)
        elif isinstance(content, str):
            path.write_text(content, encoding="utf-8")
        elif path.suffix == ".jsonl":
            path.write_text("".join(json.dumps(row) + "\n" for row in content), encoding="utf-8")
        else:
            path.write_text(json.dumps(content), encoding="utf-8")
        return path

    return write


@pytest.fixture
def source(tmp_path: Path) -> Callable[..., Source]:
    """`source(media_folder)` imports into tmp_path/data."""

    def make(folder: Path, **hold_out: float) -> Source:
        return Source(folder, tmp_path / "data", hold_out)

    return make


@pytest.fixture
def rows(tmp_path: Path) -> Callable[[str], list[dict[str, Any]]]:
    """The lines of an imported file."""

    def read(name: str) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (tmp_path / "data" / name).read_text(encoding="utf-8").splitlines()]

    return read


@pytest.fixture
def failing(tmp_path: Path) -> Callable[..., str]:
    """The message of an import that fails, having left every file as it was."""

    def run(importer: Callable[..., ImportSummary], *arguments: Any, **options: Any) -> str:
        before = sorted(tmp_path.rglob("*"))
        with pytest.raises(ClipBertError) as caught:
            importer(*arguments, **options)
        assert sorted(tmp_path.rglob("*")) == before
        return str(caught.value)

    return run


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The real media and annotations in shared/data next to the repository, or a skip."""
    for folder in Path(__file__).resolve().parents:
        if (folder / "shared" / "data").is_dir():
            return folder / "shared" / "data"
    pytest.skip("no folder shared/data next to the repository")


@pytest.fixture
def real(shared_data: Path) -> Path:
    """The official annotation files, or a skip."""
    if not (shared_data / "annotations").is_dir():
        pytest.skip("shared/data holds no annotations")
    return shared_data / "annotations"


@pytest.fixture
def named(media: Media) -> Callable[[Iterable[str], str], Path]:
    """A folder with a file for each name."""

    def make(names: Iterable[str], suffix: str) -> Path:
        return media(*(f"{name}{suffix}" for name in names))

    return make
