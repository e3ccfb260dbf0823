"""A finished run of the whole chain, made once, and copies of it to change."""

import shutil
from pathlib import Path

import pytest
from dvc_project import commit, copy_project, make_project, run, stages_run
from shared_folder import shared_folder

from clipbert.data.synthetic.sample_set import make_sample_data


@pytest.fixture(scope="session")
def finished_project(request: pytest.FixtureRequest) -> Path:
    """A project in which `dvc repro` has run every stage, committed; read it, do not write into it."""
    return shared_folder(request, "finished", make_finished_project) / "project"


def make_finished_project(folder: Path) -> None:
    """Run the whole graph on a small sample set in `folder`/project."""
    root = make_project(folder / "project")
    make_sample_data(root / "data", train=24, val=8, test=8)
    run("dvc", "add", "data", cwd=root)
    commit(root, "Start")
    done = run("dvc", "repro", cwd=root)
    assert stages_run(done.stdout) == {
        "ingest",
        "validate",
        "frames",
        "pretrained_parts",
        "dashboard",
        *(f"{stage}@{task}" for stage in ("train", "evaluate", "register") for task in ("retrieval", "open_qa")),
    }
    commit(root, "Run")


@pytest.fixture
def project(finished_project: Path, tmp_path: Path) -> Path:
    """A copy of the finished project without its MLflow store, to change."""
    return copy_project(finished_project, tmp_path / "project")


@pytest.fixture
def own_copy(finished_project: Path, tmp_path: Path) -> Path:
    """A copy of the finished project with its MLflow store, whose paths are those of the original."""
    return Path(shutil.copytree(finished_project, tmp_path / "project", symlinks=True))
