"""clipbert index and clipbert search: output, JSON, files of moments, and what a wrong call says."""

import json
from pathlib import Path
from typing import Any

import pytest
from invoked_commands import fail, run

from clipbert.search import SearchIndex

pytestmark = pytest.mark.slow  # decodes files in other processes

TEXT = "a red square moves left"


@pytest.fixture
def model(retrieval_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The option that names the model, in an empty current folder."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)
    return ["--model", str(retrieval_folder)]


def test_build_search_and_the_moment_as_a_file(library: Path, search_model: Any, model: list[str]) -> None:
    Path("table.csv").write_text("video,year\n0.mp4,2000\nsub/long.mp4,2001\n")
    shown = run("index", "build", str(library), "--clip-seconds", "2", "--metadata", "table.csv", *model)
    assert shown.splitlines()[-1] == "index: 9 videos added, 0 kept, 0 removed in artifacts/search"
    found = json.loads(run("search", TEXT, "-k", "3", "--json", *model))
    expected = SearchIndex.open("artifacts/search").search(search_model, TEXT, k=3)
    assert found["hits"] == [json.loads(json.dumps(hit.as_json())) for hit in expected]
    lines = run("search", TEXT, "--where", "year=2001", "--clip", "1", "--output", "out.mp4", *model).splitlines()
    assert lines[0].split()[2:] == ["sub/long.mp4", *lines[0].split()[3:]]
    assert lines[1:] == ["index: artifacts/search, 9 videos", f"model: {model[1]}", "clip: out.mp4"]
    assert Path("out.mp4").stat().st_size > 0
    example = json.loads(run("search", "--video", str(library / "4.mp4"), "-k", "1", "--json", *model))
    assert example["hits"][0]["video_id"] == "4.mp4"
    picture = json.loads(run("search", "--image", str(library / "red.png"), "-k", "1", "--json", *model))
    assert picture["hits"][0]["video_id"] == "red.png"
    assert "no hits: no video has this metadata" in run("search", TEXT, "--where", "year=1999", *model)

    info = json.loads(run("index", "info", "--videos", "--json"))
    assert (info["videos"], info["clips"], info["keys"]) == (9, 11, ["year"])
    assert "sub/long.mp4" in info["video_ids"]
    assert "9 (11 clips of at most 2 s)" in run("index", "info")
    assert run("index", "remove", "sub").strip() == "index: 1 videos removed from artifacts/search"
    shown = run("index", "add", str(library), *model)
    assert shown.splitlines()[-1] == "index: 1 videos added, 8 kept, 0 removed in artifacts/search"
    assert run("index", "merge", "artifacts/search", "--index", "copy").strip() == "index: 9 videos merged into copy"


def test_wrong_calls(library: Path, built: Path, model: list[str]) -> None:
    assert "no search index here" in fail("search", TEXT, *model)
    assert "no search index here" in fail("index", "info")
    assert "no search index here" in fail("index", "add", str(library), *model)
    assert "gone: not found" in fail("index", "build", "gone", *model)
    assert "clipbert ingest" in fail("index", "build", *model)
    index = ["--index", str(built)]
    assert "nothing to search for, or too much" in fail("search", *index, *model)
    assert "nothing to search for, or too much" in fail("search", TEXT, "--video", "a.mp4", *index, *model)
    assert "--where split: expected KEY=VALUE" in fail("search", TEXT, "--where", "split", *index, *model)
    assert "split: not a metadata column" in fail("search", TEXT, "--where", "split=test", *index, *model)
    assert "--clip 5: there are 2 hits" in fail("search", TEXT, "-k", "2", "--clip", "5", *index, *model)
    assert "--executor ray: expected local or dask" in fail("index", "build", str(library), "--executor", "ray", *model)
    assert "no model of retrieval" in fail("search", TEXT, *index)
