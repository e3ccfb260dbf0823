"""What the names of models stand for: the workspace, revisions, experiments, runs and versions, and what is refused."""

import hashlib
import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from compared import qa_items, ranked_items, write_evaluation

from clipbert.errors import ClipBertError
from clipbert.evaluation.comparison.result import compare
from clipbert.project import Project
from clipbert.release.compared_models import ModelFinder
from clipbert.release.comparison_run import log_comparison
from clipbert.release.connection import open_store
from clipbert.release.runs import log_evaluation

pytestmark = pytest.mark.slow  # Git

RIGHT, WRONG = [1.0] * 30 + [0.0] * 10, [1.0] * 10 + [0.0] * 30
TASK = "open_qa"


def git(root: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=Test", "-c", "user.email=test@example.com"]
    done = subprocess.run(["git", *identity, *arguments], cwd=root, check=True, capture_output=True, text=True)
    return done.stdout.strip()


def lock(root: Path) -> None:
    """Write a dvc.lock for the evaluations of the project and put their files into DVC's cache."""
    stages: dict[str, Any] = {}
    for path in sorted((root / "artifacts").rglob("*.*")):
        md5 = hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()
        cached = root / ".dvc" / "cache" / "files" / "md5" / md5[:2] / md5[2:]
        cached.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, cached)
        out = {"path": path.relative_to(root).as_posix(), "hash": "md5", "md5": md5, "size": path.stat().st_size}
        stages[f"{path.parent.name}-{path.stem}"] = {"cmd": "true", "outs": [out]}
    (root / "dvc.lock").write_text(yaml.safe_dump({"schema": "2.0", "stages": stages}))
    graph = {name: {"cmd": "true", "outs": [stage["outs"][0]["path"]]} for name, stage in stages.items()}
    (root / "dvc.yaml").write_text(yaml.safe_dump({"stages": graph}))


def commit(root: Path, items: pd.DataFrame, task: str = TASK, **described: Any) -> str:
    """Commit an evaluation as the pipeline would and return the commit."""
    write_evaluation(root, items, task, **described)
    lock(root)
    git(root, "add", "dvc.lock", "dvc.yaml")
    git(root, "commit", "-q", "--allow-empty", "-m", "an evaluation")
    return git(root, "rev-parse", "HEAD")


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A git and DVC project without an MLflow store."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    root = tmp_path / "project"
    (root / ".dvc").mkdir(parents=True)
    (root / ".dvc" / "config").write_text("[core]\n    analytics = false\n")
    git(root.parent, "init", "-q", "project")
    (root / ".gitignore").write_text("/artifacts/\n/.dvc/cache/\n/.dvc/tmp/\n")
    return root


def finder(root: Path, task: str | None = None) -> ModelFinder:
    return ModelFinder(Project(root), "clipbert", task)


def test_workspace_revisions_and_experiments_are_read_without_changing_anything(repository: Path) -> None:
    first = commit(repository, qa_items(WRONG), params={"seed": "0", "train.lr": "1"}, seconds=60.0, parameters=5)
    second = commit(repository, qa_items(RIGHT), params={"seed": "0", "train.lr": "2"}, tflop=3.0)
    git(repository, "tag", "v1", first)
    git(repository, "update-ref", f"refs/exps/{first[:2]}/{first[2:]}/faster", second)
    git(repository, "update-ref", "refs/exps/exec/EXEC_HEAD", first)
    write_evaluation(repository, qa_items([1.0] * 40))
    before = git(repository, "status", "--porcelain")
    sources = finder(repository).load(["workspace", "v1", "faster"])
    assert [source.items["score"].sum() for source in sources] == [40, 10, 30]
    assert [source.place for source in sources] == [
        "workspace",
        f"git revision {first[:7]}",
        f"DVC experiment {second[:7]}",
    ]
    assert [source.params.get("train.lr") for source in sources] == [None, "1", "2"]
    assert dict(sources[1].cost) == {"seconds": 60, "parameters": 5}
    assert dict(sources[2].cost) == {"flops": 3e12}
    assert git(repository, "status", "--porcelain") == before
    assert compare(sources).pairs[0].effects["accuracy"].difference == -75
    assert [finder(repository).find(name).commit for name in (first[:8], "exp:faster", "git:HEAD")] == [
        first,
        second,
        second,
    ]


def test_a_file_that_the_cache_lacks_comes_from_the_remote_or_is_an_error(repository: Path, tmp_path: Path) -> None:
    remote = tmp_path / "remote"
    (repository / ".dvc" / "config").write_text(f"[core]\n    remote = r\n['remote \"r\"']\n    url = {remote}\n")
    git(repository, "add", ".dvc/config")
    made = commit(repository, qa_items(WRONG))
    away = (repository / ".dvc" / "cache").rename(tmp_path / "away")
    with pytest.raises(
        ClipBertError, match=rf"artifacts/predictions/open_qa.parquet of the commit {made[:7]} is neither in"
    ):
        finder(repository).load(["HEAD"])
    away.rename(remote)
    (source,) = finder(repository).load(["HEAD"])
    assert source.items["score"].sum() == 10


def test_names_of_several_commits_are_refused(repository: Path) -> None:
    first, second = commit(repository, qa_items(WRONG)), commit(repository, qa_items(RIGHT))
    git(repository, "tag", "same", first)
    git(repository, "update-ref", f"refs/exps/{first[:2]}/{first[2:]}/same", second)
    with pytest.raises(ClipBertError, match=rf"DVC experiment {second[:7]}, git revision {first[:7]}.*`exp:same`"):
        finder(repository).find("same")
    assert finder(repository).find("exp:same").commit == second
    assert finder(repository).find("git:same").commit == first


def test_unknown_names_damaged_and_missing_results_are_errors(repository: Path) -> None:
    with pytest.raises(ClipBertError, match=r"workspace: there are no predictions in .*Evaluate a model"):
        finder(repository).find("workspace")
    git(repository, "commit", "-q", "--allow-empty", "-m", "nothing")
    with pytest.raises(ClipBertError, match=r"has no dvc.lock, so it records no results"):
        finder(repository).find("HEAD")
    (repository / "dvc.lock").write_text("stages: [1]")
    git(repository, "add", "dvc.lock")
    git(repository, "commit", "-q", "-m", "damaged")
    with pytest.raises(ClipBertError, match=r"dvc.lock of the commit \w{7} cannot be read"):
        finder(repository).find("HEAD")
    for name in ("nothing-like-this", "--upload-pack", "exp:nothing", "run:x"):
        with pytest.raises(ClipBertError, match=r"no model has this name. Expected `workspace`, a DVC experiment"):
            finder(repository).find(name)
    with pytest.raises(ClipBertError, match=r"expected models:/NAME/VERSION .*clipbert-retrieval"):
        finder(repository).find("models:/other/3")
    with pytest.raises(ClipBertError, match=r"the project has no MLflow store yet \(mlflow/mlflow.db\)"):
        finder(repository).find("retrieval@champion")
    with pytest.raises(ClipBertError, match="v1 is named twice"):
        finder(repository).load(["v1", "v1"])


def test_the_task_must_be_one_that_all_models_have(repository: Path) -> None:
    commit(repository, qa_items(WRONG))
    write_evaluation(repository, ranked_items([1, 2, 3]), "retrieval")
    assert {source.task for source in finder(repository).load(["workspace", "HEAD"])} == {TASK}
    commit(repository, qa_items(RIGHT))
    with pytest.raises(ClipBertError, match=r"several tasks: .*retrieval.*--task"):
        finder(repository).load(["workspace", "HEAD"])
    assert {source.task for source in finder(repository, "retrieval").load(["workspace", "HEAD"])} == {"retrieval"}
    with pytest.raises(ClipBertError, match=r"HEAD~1 .* has no predictions of retrieval, only of open_qa"):
        finder(repository, "retrieval").load(["workspace", "HEAD~1"])
    shutil.rmtree(repository / "artifacts")
    write_evaluation(repository, ranked_items([1, 2, 3]), "retrieval")
    with pytest.raises(
        ClipBertError, match=r"Only models of one task can be compared.*\n  workspace: retrieval\n  HEAD~1: open_qa"
    ):
        finder(repository).load(["workspace", "HEAD~1"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda items: items.assign(score=[float("nan"), *items["score"][1:]]),
            "the score of q000 is not a finite number",
        ),
        (lambda items: pd.concat([items, items.iloc[[3]]]), "q003 twice or more"),
        (lambda items: items.drop(columns="chance"), "lack the column"),
        (lambda items: items.iloc[:0], "found 0 rows"),
    ],
)
def test_damaged_predictions_are_errors_that_name_the_model_and_the_item(
    repository: Path, change: Callable[[pd.DataFrame], pd.DataFrame], message: str
) -> None:
    write_evaluation(repository, qa_items(RIGHT))
    items = change(qa_items(RIGHT))
    from clipbert.evaluation.predictions_file import write_predictions

    write_predictions(repository / "artifacts" / "predictions" / f"{TASK}.parquet", items, {"open_qa/accuracy": 1.0})
    with pytest.raises(ClipBertError, match=f"workspace .*{message}"):
        finder(repository).load(["workspace"])


def evaluated_run(root: Path, folder: Path, number: int, items: pd.DataFrame) -> str:
    """Log an evaluation to MLflow as `clipbert evaluate` does, and return the id of its run."""
    metrics = write_evaluation(
        folder, items, run_id=f"{number:032x}", run_name=f"training {number}", params={"seed": str(number)}
    )
    artifacts = folder / "artifacts"
    files = [artifacts / "metrics" / f"{TASK}.json", artifacts / "predictions" / f"{TASK}.parquet"]
    logged = {**metrics, f"{TASK}/ms_per_item": 5.0}
    return log_evaluation(root, artifacts / "runs" / f"{TASK}.json", logged, files)


def test_runs_versions_and_aliases_of_each_kind_of_store(
    any_root: Path, release: Callable[..., Any], tmp_path: Path, predictions: Callable[..., pd.DataFrame]
) -> None:
    ids = [evaluated_run(any_root, tmp_path / str(n), n, qa_items(s)) for n, s in ((1, WRONG), (2, RIGHT))]
    by_id, by_name = finder(any_root).load([ids[0], "training 2 (restored)"])
    assert [source.items["score"].sum() for source in (by_id, by_name)] == [10, 30]
    assert by_id.place == f"MLflow run {ids[0][:8]}"
    assert by_id.params["seed"] == "1"
    assert by_id.cost["ms_per_item"] == 5
    found = compare([by_id, by_name])
    assert found.pairs[0].effects["accuracy"].difference == 50

    for seed, correct in ((0, 20), (1, 40)):
        items = predictions(correct).assign(media=[f"videos/{i}.mp4" for i in range(60)])
        release(seed, items.assign(rank=2.0 - items["score"], gallery=60))
    forms = ["models:/clipbert-retrieval/1", "retrieval@candidate"]
    versions = finder(any_root).load(forms)
    assert [source.place for source in versions] == [f"model version clipbert-retrieval version {n}" for n in (1, 2)]
    assert [source.items["score"].sum() for source in versions] == [20, 40]
    same = ["retrieval/2", "clipbert-retrieval/2", "models:/clipbert-retrieval@candidate", "candidate", "@candidate"]
    assert {finder(any_root).find(name).reference for name in same} == {"clipbert-retrieval version 2"}
    with pytest.raises(
        ClipBertError, match=r"clipbert-retrieval has no alias champion .*candidate 2.*clipbert promote"
    ):
        finder(any_root).find("retrieval@champion")
    with pytest.raises(ClipBertError, match="clipbert-retrieval has no version 9"):
        finder(any_root).find("retrieval/9")
    with pytest.raises(ClipBertError, match=r"Only models of one task"):
        finder(any_root).load([ids[0], "candidate"])
    evaluated_run(any_root, tmp_path / "3", 3, qa_items(RIGHT))
    store = open_store(any_root)
    other = store.client.create_run(store.client.get_run(ids[0]).info.experiment_id, run_name="training 2 (restored)")
    with pytest.raises(
        ClipBertError, match=rf"several MLflow runs have this name.*\n.*run:{other.info.run_id}|run:{ids[1]}"
    ):
        finder(any_root).find("training 2 (restored)")
    with pytest.raises(ClipBertError, match="is not a training of clipbert"):
        finder(any_root).find(other.info.run_id)

    run_id, _ = log_comparison(Project(any_root), "clipbert", found, items=3)
    run = store.client.get_run(run_id)
    assert run.info.status == "FINISHED"
    assert store.client.get_experiment(run.info.experiment_id).name == "clipbert-comparisons"
    (difference,) = [value for name, value in run.data.metrics.items() if name.endswith("/accuracy_difference")]
    assert difference == 50
    assert run.data.tags["mlflow.note.content"] == f"- {found.pairs[0].finding}"
    listed = [file.path for file in store.client.list_artifacts(run_id)]
    assert listed == ["comparison.html", "comparison.json"]
    copy = store.client.download_artifacts(run_id, "comparison.json", str(tmp_path))
    assert json.loads(Path(copy).read_text())["comparisons"][0]["won"] == found.pairs[0].won


def test_a_run_without_predictions_is_an_error(root: Path, tmp_path: Path) -> None:
    write_evaluation(tmp_path, qa_items(RIGHT), run_id="4" * 32, run_name="unevaluated")
    run_id = log_evaluation(root, tmp_path / "artifacts" / "runs" / f"{TASK}.json", {})
    with pytest.raises(ClipBertError, match=rf"the MLflow run {run_id} has no predictions.*clipbert evaluate open_qa"):
        finder(root).load([run_id])


def test_without_the_server_files_are_compared_and_runs_are_not(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    commit(repository, qa_items(WRONG))
    write_evaluation(repository, qa_items(RIGHT))
    found = finder(repository)
    assert len(found.load(["workspace", "HEAD"])) == 2
    assert found.notes == ["MLflow cannot be used, so costs that only MLflow has are not shown."]
    with pytest.raises(
        ClipBertError, match=r"no model has this name.*\nRuns and versions were not searched: MLflow store"
    ):
        found.find("champion")
    with pytest.raises(ClipBertError, match=r"MLflow store http://127.0.0.1:9 cannot be used"):
        found.find("retrieval@champion")
