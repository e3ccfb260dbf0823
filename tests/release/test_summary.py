"""`clipbert summary` shows the pipeline's tasks and what the registry has now."""

import json
import shutil

import pytest
from policies import task_policy

from clipbert.cli.summary import print_summary
from clipbert.config.schema import Params, ReleaseParams
from clipbert.errors import ClipBertError
from clipbert.project import Project
from clipbert.release.promotion import promote
from clipbert.tasks import task_class

ONLY_RETRIEVAL = Params(tasks_run=["retrieval"])


@pytest.fixture
def project(root, make_model, monkeypatch):
    """A project with a trained and evaluated retrieval model, and one of open_qa."""
    monkeypatch.setenv("COLUMNS", "160")
    for task in ("retrieval", "open_qa"):
        shutil.copytree(make_model(task, 0), root / "artifacts" / "models" / task)
        shown = task_class(task).report.headlines
        names = {name for line in shown for name in (line.metric, *(metric for _, metric in line.compared_with))}
        metrics = root / "artifacts" / "metrics" / f"{task}.json"
        metrics.parent.mkdir(parents=True, exist_ok=True)
        metrics.write_text(json.dumps({f"{task}/{name}": 12.5 for name in names}))
    return Project(root)


def said(project, capsys, params=ONLY_RETRIEVAL):
    capsys.readouterr()
    print_summary(project, params)
    return capsys.readouterr().out


def test_only_the_pipelines_tasks_are_listed(project, capsys):
    assert "open_qa" not in said(project, capsys)
    assert "open_qa" in said(project, capsys, Params(tasks_run=["retrieval", "open_qa"]))
    assert "Not evaluated yet: captioning." in said(project, capsys, Params(tasks_run=["retrieval", "captioning"]))


def test_a_model_that_the_store_does_not_have_names_the_command(project, root, capsys):
    # as after `dvc pull` in a second clone: the file speaks of another store's version
    release = root / "artifacts" / "releases" / "retrieval.json"
    release.parent.mkdir(parents=True)
    release.write_text(json.dumps({"name": "clipbert-retrieval", "version": "7", "alias": "candidate"}))
    out = said(project, capsys)
    assert "version 7" not in out
    assert "none here" in out
    assert "has no version of the retrieval model in artifacts/models/retrieval: `clipbert register retrieval`" in out


def test_a_store_that_is_not_there_yet_is_not_made(project, root, capsys):
    (root / "mlflow" / "mlflow.db").unlink()
    out = said(project, capsys)
    assert "mlflow/mlflow.db (not created yet)" in out
    assert "`clipbert register retrieval` registers it" in out
    assert not (root / "mlflow" / "mlflow.db").exists()


def test_aliases_are_those_of_now(project, root, capsys, release_embedded, predictions):
    release_embedded(0, predictions(30))
    assert _row(said(project, capsys)) == ["1", "candidate", "none", "clipbert", "promote", "retrieval"]
    promote(root, "retrieval", task_policy())
    assert _row(said(project, capsys)) == ["1", "candidate,", "champion", "1"]
    release_embedded(1, predictions(50))
    assert _row(said(project, capsys)) == ["1", "champion", "1"]
    promote(root, "retrieval", task_policy())
    row = _row(said(project, capsys))
    assert row == ["1", "previous", "2", "clipbert", "register", "retrieval"]


def test_another_release_name_is_shown(project, capsys):
    params = Params(tasks_run=["retrieval"], release=ReleaseParams(name="videos"))
    assert "videos-retrieval" in said(project, capsys, params)


def test_a_store_that_does_not_answer_leaves_the_metrics(project, capsys, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "postgresql://me:pass-word@127.0.0.1:9/db")
    out = said(project, capsys)
    assert "12.5" in out
    assert "the registry's state is unknown" in out
    assert "pass-word" not in out


def _row(out: str) -> list[str]:
    return next(
        line for line in out.splitlines() if line.startswith(("clipbert-retrieval", " clipbert-retrieval"))
    ).split()[1:]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text.replace('retrieval/r1"', 'retrieval/r2"'), "retrieval/r1 is missing"),
        (lambda text: text.replace('"retrieval/r1": 12.5', '"retrieval/r1": "x"'), "r1 is 'x', expected a number"),
        (lambda text: text[:20], "damaged"),
        (lambda text: "[1]", "expected a JSON object, found list"),
    ],
)
def test_damaged_metrics_are_named_with_the_command(project, change, message):
    path = project.metrics("retrieval")
    path.write_text(change(path.read_text()))
    with pytest.raises(ClipBertError) as caught:
        print_summary(project, ONLY_RETRIEVAL)
    assert str(path) in str(caught.value)
    assert message in str(caught.value)
    assert "`clipbert evaluate retrieval`" in str(caught.value)
