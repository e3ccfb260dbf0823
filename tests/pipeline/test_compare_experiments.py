"""`clipbert compare` after a real run of the pipeline: a DVC experiment, a revision, and the MLflow run."""

import json
from pathlib import Path

import pytest
from dvc_project import clipbert, run

pytestmark = pytest.mark.slow


def test_an_experiment_a_revision_and_a_run_are_compared(project: Path) -> None:
    clipbert("evaluate", "retrieval", "--set", "evaluate.clips=1", cwd=project)
    run("dvc", "commit", "--force", "evaluate@retrieval", cwd=project)
    run("dvc", "exp", "save", "--name", "one-clip", cwd=project)
    out = clipbert("compare", "HEAD", "one-clip", "--json", "--metrics", "comparison.json", cwd=project).stdout
    found = json.loads(out)
    assert found["task"] == "retrieval"  # the predictions of open_qa are the same in both
    first, second = (model["trainings"][0] for model in found["models"])
    assert (first["kind"], second["kind"]) == ("git revision", "DVC experiment")
    assert found["differing"] == {"evaluated with clips": ["2", "1"]}
    for training in (first, second):
        assert training["cost"]["flops"] > 0
        assert training["cost"]["parameters"] > 1000
        assert training["cost"]["seconds"] > 0
    shown = run("dvc", "metrics", "show", "--json", "comparison.json", cwd=project).stdout
    assert "retrieval/one-clip_vs_HEAD/r1_difference" in shown
    name = json.loads((project / "artifacts" / "runs" / "retrieval.json").read_text())["run_name"]
    out = clipbert("compare", "one-clip", f"run:{name} (restored)", "--task", "retrieval", cwd=project).stdout
    assert "have the same predictions" in out
    assert "MLflow run" in out
