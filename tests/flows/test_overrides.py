"""Parameters that a run changes: checked before anything runs, and taken back after the run or a kill."""

from pathlib import Path

import pytest
import yaml
from params_file import write_params

from clipbert.config.load import load_params
from flows.overrides import KEPT, apply_overrides, check_overrides, restore_params
from flows.parameters import ParameterError

pytestmark = pytest.mark.pipeline


@pytest.fixture
def project(tmp_path: Path) -> Path:
    path = write_params(tmp_path)
    path.write_text("# Our parameters.\n" + path.read_text())
    return tmp_path


def test_changes_are_written_and_taken_back(project: Path) -> None:
    before = (project / "params.yaml").read_bytes()
    apply_overrides(project, {"train.lr": 1e-4, "tasks_run": ["open_qa"], "model.preset": "small", "frames.size": 224})
    text = (project / "params.yaml").read_text()
    assert text.startswith("# Our parameters.\n")
    changed = load_params(project / "params.yaml")
    assert (changed.train.lr, changed.tasks_run, changed.model.preset) == (1e-4, ["open_qa"], "small")
    assert yaml.safe_load(text)["seed"] == 0
    assert restore_params(project)
    assert (project / "params.yaml").read_bytes() == before
    assert not (project / KEPT).exists()
    assert not restore_params(project)


def test_a_killed_run_left_its_changes_and_the_next_takes_them_back(project: Path) -> None:
    before = (project / "params.yaml").read_bytes()
    apply_overrides(project, {"train.lr": 1e-4})  # and no restore_params
    assert restore_params(project)
    assert (project / "params.yaml").read_bytes() == before


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("train.lr", 5, r"overrides: train.lr=5: train.lr = 5: expected less than or equal to 1"),
        ("train.lrr", 1e-3, "train.lrr: unknown parameter; did you mean train.lr"),
        ("model.text", "../../secrets", "expected letters, digits and _ . % / -, and no path outside the project"),
        ("model.text", "models/../../secrets", "no path outside the project"),
        ("model.init_from", "/etc", "no path outside the project"),
        ("train.budget", "; touch x", "no path outside the project"),
        ("train.budget", "$(touch x)", "no path outside the project"),
        ("tasks_run", ["retrieval", "x; touch x"], "no path outside the project"),
        ("inbox.source", "arrivals", "inbox.source: cannot be changed for one run. Change it in params.yaml"),
        ("inbox.branch", "x", "inbox.branch: cannot be changed for one run"),
        ("release.name", "other", "release.name: cannot be changed for one run"),
        ("frames.media_url", "s3://bucket", "frames.media_url: cannot be changed for one run"),
    ],
)
def test_a_wrong_change_is_refused_before_anything_is_written(
    project: Path, name: str, value: object, message: str
) -> None:
    before = (project / "params.yaml").read_bytes()
    with pytest.raises(ParameterError, match=r"^overrides: ") as caught:
        apply_overrides(project, {name: value})  # type: ignore[dict-item]
    assert message in str(caught.value)
    assert (project / "params.yaml").read_bytes() == before
    assert not (project / KEPT).exists()


def test_no_change_is_the_file_itself(project: Path) -> None:
    assert check_overrides(project, {}) == load_params(project / "params.yaml")
