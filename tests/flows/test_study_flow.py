"""The deployment `study`: its result as artifacts, and what a wrong parameter gives."""

import json
import shutil
from pathlib import Path

import pytest
from prefect_server import Prefect
from study_project import make_study_project, open_study

pytestmark = [pytest.mark.pipeline, pytest.mark.slow, pytest.mark.timeout(900)]
REPOSITORY = Path(__file__).parents[2]
STUDY = "clipbert-study/study"


def test_a_study_publishes_its_settings_and_its_answer(prefect: Prefect, tmp_path: Path) -> None:
    root = make_study_project(tmp_path / "project")
    shutil.copytree(REPOSITORY / "flows", root / "flows", ignore=shutil.ignore_patterns("__pycache__"))
    assert open_study(root).run(2, 0, lambda point, record: None) == []
    run = prefect.start(STUDY, root, grid="recipes/study/sizes.yaml")
    state = prefect.wait(run)
    assert state["type"] == "COMPLETED", state["message"]
    assert state["message"] == "Cheapest within one standard error of the best: image_size=96; 1 clip, lse"
    found = prefect.artifacts(run)
    rows = {row["setting"]: row["mean"] for row in json.loads(found["clipbert-study-sizes"])}
    assert rows["base; 2 clips, lse"] == 45.0
    assert "**image size**: One seed says nothing" in str(found)

    # what the command wrote
    written = json.loads((root / "artifacts" / "study" / "sizes" / "study.json").read_text())
    assert written["choice"] == "image_size=96; 1 clip, lse"
    assert (root / "recipes" / "sizes_study.yaml").is_file()
    assert "Study sizes" in (root / "artifacts" / "study" / "sizes" / "index.html").read_text()
    assert not (root / ".dvc" / "tmp" / "study" / "sizes").exists()


@pytest.mark.parametrize("grid", ["../elsewhere.yaml", "recipes/study/none.yaml"])
def test_a_grid_that_is_no_file_of_the_project_is_refused(prefect: Prefect, project: Path, grid: str) -> None:
    state = prefect.wait(prefect.start(STUDY, project, grid=grid))
    assert state["type"] == "FAILED"
    assert f"grid: '{grid}' names no file below the project's folder" in state["message"]
