"""A finished project that is moved, and one whose store was moved away: the advised commands repair both."""

import json
import re
from pathlib import Path

import mlflow
import pandas as pd
import pytest
from dvc_project import clipbert, run, set_params, stages_run

from clipbert.release.connection import open_store
from clipbert.release.store import default_store

pytestmark = [pytest.mark.pipeline, pytest.mark.timeout(1200)]


def words(text: str) -> str:
    """The text in one line, as it was before the terminal's width broke it."""
    return " ".join(text.split())


def test_a_moved_project_is_diagnosed_repaired_and_used(own_copy: Path) -> None:
    clipbert("track", "relocate", cwd=own_copy)
    moved = own_copy.rename(own_copy.with_name("moved project"))
    diagnosis = (
        f"MLflow store mlflow/mlflow.db: its files are recorded under {own_copy}/mlflow/artifacts, but this project is "
        f"at {moved}. It was moved, renamed or copied, and MLflow keeps absolute paths: run `clipbert track relocate` "
        "to correct them."
    )
    # The tables say nothing about versions that could not be looked up.
    assert diagnosis in words(clipbert("summary", cwd=moved).stdout)
    doctor = clipbert("doctor", cwd=moved, code=1)
    assert words(diagnosis).replace(" ", "") in (doctor.stdout + doctor.stderr).replace(" ", "").replace("\n", "")
    assert diagnosis in words(clipbert("promote", "retrieval", cwd=moved, code=2).stderr)

    assert " paths in mlflow/mlflow.db changed from " in words(clipbert("track", "relocate", cwd=moved).stdout)
    again = clipbert("track", "relocate", cwd=moved).stdout
    assert words(again) == "The paths in the MLflow store already name this folder; nothing was changed."

    assert re.search(r"clipbert-retrieval +1 +candidate +none +clipbert promote retrieval", summary(moved))
    clipbert("evaluate", "retrieval", cwd=moved)
    assert "fewer than 20 items" in words(clipbert("promote", "retrieval", cwd=moved).stdout)
    (event,) = json.loads(clipbert("history", "--json", cwd=moved).stdout)
    assert (event["name"], event["decision"], event["version"]) == ("clipbert-retrieval", "rejected", "1")
    store = open_store(moved)
    with default_store(store):
        model = mlflow.pyfunc.load_model("models:/clipbert-retrieval@candidate")
    video = sorted((moved / "data" / "videos").glob("*.mp4"))[0]
    answer = model.predict(pd.DataFrame({"video": [str(video)], "text": ["a red square moves left"]}))
    assert len(answer) == 1


def test_a_store_that_was_moved_away_is_filled_by_the_advised_command(own_copy: Path) -> None:
    for name in ("mlflow.db", "artifacts"):
        (own_copy / "mlflow" / name).rename(own_copy.parent / name)
    shown = summary(own_copy)
    assert re.search(r"clipbert-retrieval +none here +none +clipbert register retrieval", shown)
    assert "`clipbert register retrieval` registers it" in words(shown)
    clipbert("register", "retrieval", cwd=own_copy)
    assert re.search(r"clipbert-retrieval +1 +candidate +none +clipbert promote retrieval", summary(own_copy))


def test_a_lost_run_description_is_made_by_the_advised_training(project: Path) -> None:
    (project / "artifacts" / "runs" / "retrieval.json").write_text("{")
    told = words(clipbert("register", "retrieval", cwd=project, code=2).stderr)
    command = "dvc repro --force --single-item train@retrieval"
    assert f"`{command}`" in told
    set_params(project, {"tasks.retrieval.epochs": 1})
    assert stages_run(run(*command.split(), cwd=project).stdout) == {"train@retrieval"}
    assert json.loads((project / "artifacts" / "runs" / "retrieval.json").read_text())["task"] == "retrieval"
    run("dvc", "repro", "register@retrieval", cwd=project)


def summary(root: Path) -> str:
    """What `clipbert summary` prints."""
    return clipbert("summary", cwd=root).stdout
