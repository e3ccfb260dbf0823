"""Names, descriptions and metric names under which MLflow shows a run."""

import subprocess
from pathlib import Path

import pytest
import yaml

from clipbert.config.schema import Params
from clipbert.config.tasks import task_names
from clipbert.model.weights.card import model_card, table, with_results
from clipbert.release.connection import open_store
from clipbert.release.descriptions import LONGEST, description, model_description
from clipbert.release.metric_names import tracked_metrics
from clipbert.release.run_names import changed_parameters, run_name
from clipbert.release.runs import flatten
from clipbert.release.tracking import start_training_run
from clipbert.tasks import task_class

pytestmark = pytest.mark.slow  # Git

DEFAULTS = flatten(Params().recorded_parameters("retrieval"))


def recorded(**changes: object) -> dict[str, str]:
    return DEFAULTS | {name: str(value) for name, value in changes.items()}


def test_experiment_task_and_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DVC_EXP_NAME", "slower")
    params = recorded(**{"train.lr": 0.0005, "tasks.retrieval.negatives": 1, "frames.fps": 1.0, "train.num_workers": 4})
    assert (
        run_name(tmp_path, "retrieval", params, DEFAULTS)
        == "slower: retrieval (lr=0.0005, negatives=1, frames.fps=1.0)"
    )


def test_without_experiment_the_time_tells_runs_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DVC_EXP_NAME", raising=False)
    name = run_name(tmp_path, "retrieval", recorded(**{"train.budget": "20 steps"}), DEFAULTS)
    assert name.startswith("retrieval 20")
    assert name.endswith(" (budget=20 steps)")
    assert "(" not in run_name(tmp_path, "retrieval", recorded(), DEFAULTS)


def test_what_the_experiment_changed_comes_before_what_the_project_has_always_had(tmp_path: Path) -> None:
    project = {"model.preset": "small", "model.image_size": 160, "train.lr": 0.0003, "train.batch_size": 16}
    params = recorded(**project, **{"tasks.retrieval.negatives": 5})
    (tmp_path / "params.yaml").write_text(
        yaml.safe_dump({"model": {"preset": "small", "image_size": 160}, "train": {"lr": 0.0003, "batch_size": 16}})
    )
    for command in (["init", "-q"], ["add", "-A"], ["-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "a"]):
        subprocess.run(["git", *command], cwd=tmp_path, check=True)
    assert next(iter(changed_parameters(tmp_path, params, DEFAULTS))) == "tasks.retrieval.negatives"
    assert "(negatives=5, image_size=160, preset=small, batch_size=16, +1)" in run_name(
        tmp_path, "retrieval", params, DEFAULTS
    )


def test_long_values_and_many_changes_stay_readable(tmp_path: Path) -> None:
    params = recorded(**{"model.init_from": "artifacts/models/" + "x" * 300})
    name = run_name(tmp_path, "retrieval", params, DEFAULTS)
    assert "init_from=artifacts/models/xxxx..." in name


@pytest.mark.parametrize("task", task_names())
def test_the_first_section_of_charts_has_the_headlines_and_nothing_else(task: str) -> None:
    report = task_class(task).report
    headlines = [shown.metric for shown in report.headlines]
    others = [metric for shown in report.headlines for _, metric in shown.compared_with]
    names = [*headlines, *others, f"{headlines[0]}_ci_low", "something_else"]
    tracked = tracked_metrics({f"{task}/{name}": 1.0 for name in names})
    sections = sorted({name.rpartition("/")[0] for name in [*tracked, "train/loss", f"val/{task}/x"]})
    assert sections[0] == task
    assert {name.rpartition("/")[2] for name in tracked if name.startswith(f"{task}/")} == set(headlines)
    assert f"{task}_intervals/{headlines[0]}_ci_low" in tracked
    assert f"{task}_details/something_else" in tracked
    assert not [name for name in tracked if name.startswith(f"{task}_details/blank_frames")]


def long_card() -> str:
    parameters = table(("parameter", "value"), [(f"train.parameter_{number}", number) for number in range(300)])
    card = model_card(task_class("retrieval").card, "m", "C", {"Data": "d", "Parameters": parameters})
    metrics = {"retrieval/r1": 42.5, "retrieval/r1_ci_low": 40.0, "retrieval/r1_ci_high": 45.0}
    return with_results(card, "retrieval", metrics, "abc", "Measured.")


def test_a_description_begins_with_the_results_and_fits_the_database() -> None:
    for text in (description(long_card()), model_description(long_card(), "3")):
        assert len(text) <= LONGEST
        assert "---\nlibrary_name" not in text
        assert (
            text.index("| retrieval/r1 | 42.5 | 40.0 to 45.0 |") < text.index("## Data") < text.index("## Parameters")
        )
        assert text.endswith("README.md` among the files of the model.)")
    assert model_description(long_card(), "3").startswith("The version with the alias `champion` is in use. The newest")


def test_a_run_has_the_card_as_its_description_and_the_experiment_as_a_tag(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DVC_EXP_NAME", "slower")
    recorded = Params().recorded_parameters("retrieval")
    with start_training_run(root, "retrieval", recorded, defaults=recorded) as run:
        run.log_card(long_card())
    found = open_store(root).client.get_run(run.run_id)
    assert found.info.run_name == run.name == "slower: retrieval"
    assert found.data.tags["clipbert.dvc_experiment"] == "slower"
    assert found.data.tags["mlflow.note.content"] == description(long_card())
    logged = set(found.data.params)
    assert {"evaluate.clips", "ingest.verify", "validate.severity.ids", "frames.fps", "release.name"} <= logged
    assert "tasks.open_qa.epochs" not in logged
