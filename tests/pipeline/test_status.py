"""What DVC says about a finished project: nothing to run, which stages a parameter changes, metrics and graph."""

import json
import shutil
from pathlib import Path

import pytest
from dvc.repo import Repo
from dvc_project import clipbert, run, set_params, stages_run

from clipbert.release.relocate import relocate

pytestmark = [pytest.mark.pipeline, pytest.mark.timeout(1200)]

TASKS = ("retrieval", "open_qa")


@pytest.fixture(scope="module")
def project(finished_project: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the finished project with its MLflow store; tests leave its files as they find them."""
    root = tmp_path_factory.mktemp("status") / "project"
    shutil.copytree(finished_project, root, symlinks=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        relocate(root)
    return root


def test_a_second_repro_does_nothing_and_status_is_clean(project: Path) -> None:
    assert stages_run(run("dvc", "repro", cwd=project).stdout) == set()
    assert "up to date" in run("dvc", "status", cwd=project).stdout
    assert run("git", "status", "--porcelain", cwd=project).stdout == ""


def test_what_python_compiles_is_no_change_of_the_code(project: Path) -> None:
    compiled = project / "src/clipbert/frame_cache/__pycache__"
    compiled.mkdir(exist_ok=True)
    (compiled / "given.cpython-311.pyc").write_bytes(b"compiled")
    assert "up to date" in run("dvc", "status", cwd=project).stdout


def test_dvc_shows_metrics_the_graph_and_the_summary(project: Path) -> None:
    metrics = json.loads(run("dvc", "metrics", "show", "--json", cwd=project).stdout)
    assert "retrieval/r1" in metrics[""]["data"]["artifacts/metrics/retrieval.json"]["data"]
    assert "train@retrieval" in run("dvc", "dag", "--dot", cwd=project).stdout
    summary = clipbert("summary", cwd=project).stdout
    expected = ("text-to-video R@1, %", "open QA accuracy, %", "clipbert-retrieval", "make ui", "validation/index.html")
    assert [words for words in expected if words not in summary] == []


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("ingest.timeout_s", 33.0, {"ingest"}),
        ("validate.max_text_chars", 1999, {"validate"}),
        ("frames.quality", 80, {"frames"}),
        ("tasks.open_qa.epochs", 1, {"train@open_qa"}),
        ("tasks.retrieval.negatives", 3, {"train@retrieval"}),
        ("evaluate.clips", 1, {f"{stage}@{task}" for stage in ("train", "evaluate") for task in TASKS}),
        ("evaluate.batch_size", 128, {"evaluate@retrieval", "evaluate@open_qa"}),
    ],
)
def test_a_parameter_changes_the_status_of_its_stages(
    project: Path, key: str, value: object, expected: set[str]
) -> None:
    params = project / "params.yaml"
    before = params.read_bytes()
    set_params(project, {key: value})
    try:
        with Repo(project) as repo:
            # DVC names a stage with the path of its file from the current folder: ../project/dvc.yaml:train@open_qa.
            assert {name.rpartition(":")[2] for name in repo.status()} == expected
    finally:
        params.write_bytes(before)
