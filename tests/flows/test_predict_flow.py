"""The deployment `predict`: a table predicted by a worker, and parameters that lead outside the project."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from prefect_server import Prefect
from small_model import save_small_model

from clipbert.model import ClipBertForOpenQA
from flows.parameters import ParameterError
from flows.predict import _inside, _output

pytestmark = [pytest.mark.pipeline, pytest.mark.slow]
PREDICT = "clipbert-predict/predict"


def test_a_worker_predicts_a_table_with_the_last_trained_model(
    prefect: Prefect, project: Path, tiny_video: Any
) -> None:
    save_small_model(project / "artifacts" / "models" / "open_qa", ClipBertForOpenQA)
    shutil.rmtree(project / "data", ignore_errors=True)
    (project / "data").mkdir()
    tiny_video(project / "data" / "a.mp4", seed=1)
    rows = [{"video": "a.mp4", "question": "what color is it"}, {"video": "b.mp4", "question": "what color is it"}]
    (project / "data" / "q.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    run = prefect.start(PREDICT, project, table="data/q.jsonl", output="a.jsonl")
    state = prefect.wait(run)
    assert state["type"] == "COMPLETED", state["message"]
    assert state["message"] == "artifacts/tables/a.jsonl: 2 rows, 1 with an error"
    lines = (project / "artifacts" / "tables" / "a.jsonl").read_text().splitlines()
    good, bad = map(json.loads, lines)
    assert good["answer"] in ("red", "blue", "two")
    assert "not found" in bad["error"]


@pytest.mark.parametrize("given", ["../q.csv", "/etc/passwd", "q.csv; touch x", "a\0b", "link/passwd", "--help", ""])
def test_a_table_outside_the_project_is_refused(given: str, tmp_path: Path) -> None:
    (tmp_path / "q.csv").touch()
    (tmp_path / "project").mkdir()
    (tmp_path / "project" / "link").symlink_to("/etc")
    with pytest.raises(ParameterError, match=r"table: .* names no file below the project's folder"):
        _inside(tmp_path / "project", "table", given, is_file=True)


@pytest.mark.parametrize("given", ["../a.csv", "/tmp/a.csv", "sub/a.csv", ".a.csv", "-a.csv", "a\0.csv", ""])
def test_an_output_that_is_no_file_name_is_refused(given: str, tmp_path: Path) -> None:
    with pytest.raises(ParameterError, match=r"output: .* is not a file name"):
        _output(tmp_path, given)
    assert _output(tmp_path, "a.csv; touch x.csv").parent == tmp_path / "artifacts" / "tables"
