"""`clipbert study` with real trainings: experiments, nested runs, the recipe; and a second call that trains nothing."""

import json
from pathlib import Path

import pytest
from dvc_project import clipbert, run
from study_project import write_grid

from clipbert.release.connection import open_store
from clipbert.release.study_run import PARENT

pytestmark = [pytest.mark.pipeline, pytest.mark.timeout(1800)]
GRID = Path("recipes", "study", "vision.yaml")


def test_a_study_trains_evaluates_and_chooses(project: Path) -> None:
    write_grid(
        project / GRID,
        budget="3 steps",
        seeds=[0],
        params={"evaluate.rerank_top_k": 4},
        axes={"vision": {"end to end": {"train.freeze_vision": False}, "frozen": {"train.freeze_vision": True}}},
        evaluate={"clips": [1, 2], "score_aggregation": ["max"]},
    )
    run("git", "add", "-A", cwd=project)
    run("git", "commit", "-q", "-m", "Grid", cwd=project)
    planned = clipbert("study", "--grid", str(GRID), "--dry-run", cwd=project).stdout
    assert "2 settings, 1 seeds: 2 trainings of 3steps, 2 evaluations on the validation split each; 2 to do." in planned
    done = run("clipbert", "study", "--grid", str(GRID), cwd=project).stdout
    assert "[2/2] vision-freeze_vision-true-seed0: retrieval/r1" in done
    assert "One seed says nothing about the noise of seeds" in done

    folder = project / "artifacts" / "study" / "vision"
    result = json.loads((folder / "study.json").read_text())
    assert {row["name"] for row in result["settings"]} == {
        f"{setting}; {evaluation}"
        for setting in ("base", "freeze_vision=true")
        for evaluation in ("1 clip, lse", "2 clips, lse", "2 clips, max")
    }
    costs = {row["label"]: row["cost"]["tflop"] for row in result["settings"]}
    assert 0 < costs["freeze_vision=true"] < costs["base"]
    assert "Study vision" in (folder / "index.html").read_text()
    # the recipe is one that the other commands take
    assert "train.budget=3steps" in clipbert("recipe", "vision_study", cwd=project).stdout

    # the experiments, each with its run below that of the study
    listed = json.loads(clipbert("experiments", "--task", "retrieval", "--json", cwd=project).stdout)
    names = {one["name"] for one in listed if one["kind"] == "experiment"}
    assert names == {"vision-base-seed0", "vision-freeze_vision-true-seed0"}
    store = open_store(project)
    experiment = store.client.get_experiment_by_name("clipbert-retrieval")
    runs = store.client.search_runs([experiment.experiment_id])
    (parent,) = [one for one in runs if one.info.run_name == "study vision: retrieval"]
    children = [one for one in runs if one.data.tags.get(PARENT) == parent.info.run_id]
    assert len(children) == 2
    assert parent.info.status == "FINISHED"
    assert "study/clips2_max/retrieval_r1" in children[0].data.metrics
    assert "Cheapest setting within one standard error" in parent.data.tags["mlflow.note.content"]

    again = clipbert("study", "--grid", str(GRID), cwd=project).stdout
    assert "2 of 2 trainings are finished already." in again
    assert "[" not in again.partition("\n")[0]
