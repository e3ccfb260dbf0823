"""The commands that `make run` ends with: a search and a question about the same test video."""

from pathlib import Path

import pandas as pd
import pytest

from scripts.show_use import commands

ROWS = [
    ("caption", "videos/a.mp4", "a red circle moves left over a white background", "test", "video"),
    ("caption", "videos/b.mp4", "a blue square", "test", "video"),
    ("caption", "videos/c.mp4", "a star", "train", "video"),
    ("caption", "images/d.png", "a", "test", "image"),
    ("open_qa", "videos/a.mp4", "what moves?", "test", "video"),
    ("open_qa", "videos/b.mp4", "what color is it?", "test", "video"),
]


@pytest.fixture(autouse=True)
def manifest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "artifacts" / "manifest" / "texts.parquet"
    path.parent.mkdir(parents=True)
    pd.DataFrame(ROWS, columns=["kind", "media", "text", "split", "media_kind"]).to_parquet(path)
    return path


def test_the_search_and_the_question_are_about_the_same_test_video() -> None:
    build, search, ask = commands(["retrieval", "open_qa"])
    assert build == ["clipbert", "index", "build"]
    assert search[1:3] == ["search", "a blue square"]
    assert ask == ["clipbert", "ask", "data/videos/b.mp4", "what color is it?"]


def test_only_what_the_models_can_do_is_shown(manifest: Path) -> None:
    assert commands(["captioning"]) == []
    assert commands(["open_qa"]) == [["clipbert", "ask", "data/videos/a.mp4", "what moves?"]]
    pd.DataFrame(ROWS[2:4], columns=["kind", "media", "text", "split", "media_kind"]).to_parquet(manifest)
    assert commands(["retrieval", "open_qa"]) == []
