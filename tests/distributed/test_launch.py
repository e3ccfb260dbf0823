"""`clipbert train` with several processes, as a user runs it: one command, one message, one MLflow run."""

import os
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from forked_python import ForkedProgram
from params_file import write_params

pytestmark = [pytest.mark.pipeline, pytest.mark.slow]

SMALL = {"model.hidden_size": 32, "model.num_hidden_layers": 1, "model.num_attention_heads": 2, "model.image_size": 48}
TRAIN = {
    "train.processes": 2,
    "train.batch_size": 8,
    "train.checkpoint_every_steps": 3,
    "tasks.retrieval.epochs": 10,
    "train.min_steps": 0,
}


@pytest.fixture
def project(tiny_project: Path, tmp_path: Path) -> Path:
    shutil.copytree(tiny_project / "artifacts", tmp_path / "artifacts")
    write_params(tmp_path)
    return tmp_path


def started(project: Path, **settings: Any) -> Any:
    chosen = SMALL | TRAIN | {name.replace("__", "."): value for name, value in settings.items()}
    flags = [word for name, value in chosen.items() for word in ("--set", f"{name}={value}")]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    return ForkedProgram(["-m", "clipbert", "train", "retrieval", *flags], environment, cwd=project, merge=True)


def trained_until(project: Path, step: int) -> None:
    """Wait for a checkpoint of this step or a later one."""
    until = time.monotonic() + 120
    while not any(int(path.name[5:]) >= step for path in checkpoints(project)):
        assert time.monotonic() < until
        time.sleep(0.02)


def checkpoints(project: Path) -> list[Path]:
    return sorted((project / "artifacts" / "checkpoints" / "retrieval").glob("step-*"))


def test_stopped_killed_and_finished_by_the_same_command(project: Path) -> None:
    process = started(project)
    trained_until(project, 6)
    process.send_signal(signal.SIGTERM)
    said, _ = process.communicate(timeout=100)
    assert process.returncode == 143, said
    assert said.count("SIGTERM: the training saves its state and stops") == 1
    assert "Traceback" not in said
    last = int(checkpoints(project)[-1].name[5:])

    process = started(project)
    trained_until(project, last + 9)
    ranks = psutil.Process(process.pid).children()
    ranks[-1].send_signal(signal.SIGKILL)
    said, _ = process.communicate(timeout=200)
    assert process.returncode == 0, said
    assert said.count("Resuming retrieval at step") == 2
    assert "Traceback" not in said
    assert "retrieval: 30 steps in" in said
    assert (project / "artifacts" / "models" / "retrieval" / "model.safetensors").is_file()
    assert checkpoints(project) == []
    assert one_run_with_each_step_once(project, 3)


def one_run_with_each_step_once(project: Path, logged: int) -> bool:
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{project}/mlflow/mlflow.db")
    runs = client.search_runs([experiment.experiment_id for experiment in client.search_experiments()])
    assert [run.info.status for run in runs] == ["FINISHED"]
    steps = [metric.step for metric in client.get_metric_history(runs[0].info.run_id, "train/loss")]
    assert steps == list(range(10, 10 * logged + 1, 10))
    return True


def test_an_error_of_the_user_is_said_once_and_not_tried_again(project: Path) -> None:
    process = started(project, train__batch_size=1, train__max_restarts=3)
    said, _ = process.communicate(timeout=100)
    assert process.returncode == 2, said
    assert said.count("clipbert: train.batch_size: a batch of 1 videos cannot be shared by 2 processes") == 1
    assert "ended with exit code" not in said
    assert "Traceback" not in said
