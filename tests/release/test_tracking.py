import json
import math
import os
import platform
import signal
import textwrap
import time
from pathlib import Path

import pandas as pd
import pytest
import yaml
from forked_python import ForkedProgram
from PIL import Image

from clipbert.config.schema import Params
from clipbert.errors import ClipBertError
from clipbert.files.atomic import write_json
from clipbert.release.connection import open_experiment, open_store
from clipbert.release.provenance import provenance
from clipbert.release.runs import flatten
from clipbert.release.tracking import log_evaluation, start_training_run

MD5 = "0123456789abcdef0123456789abcdef.dir"


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "sample.png"
    Image.new("RGB", (4, 4), "red").save(path)
    return path


def steps(root: Path, run_id: str, key: str) -> list[int]:
    return [metric.step for metric in open_store(root).client.get_metric_history(run_id, key)]


def said(capsys: pytest.CaptureFixture[str], words: str) -> str:
    """All of standard error up to where the words are said."""
    text = ""
    for _ in range(300):
        text += capsys.readouterr().err
        if words in text:
            return text
        time.sleep(0.1)
    raise AssertionError(f"not said in half a minute: {words}\n{text}")


def test_run_holds_params_metrics_data_provenance_and_pictures(any_root, picture):
    (any_root / "data.dvc").write_text(yaml.safe_dump({"outs": [{"md5": MD5, "path": "data"}]}))
    manifest = any_root / "artifacts" / "manifest"
    manifest.mkdir(parents=True)
    pd.DataFrame({"split": ["train", "train", "test", None]}).to_parquet(manifest / "videos.parquet")
    with start_training_run(any_root, "retrieval", Params().model_dump(by_alias=True)) as run:
        for step in (10, 20):
            run.log_metrics({"train/loss": 1 / step, "train/lr": 0.1}, step)
        run.log_samples([picture], 20)
        time.sleep(1.2)
    client = open_store(any_root).client
    found = client.get_run(run.run_id)
    assert found.info.status == "FINISHED"
    assert found.data.params["train.lr"] == str(Params().train.lr)
    assert found.data.params["tasks.retrieval.epochs"] == str(Params().tasks.retrieval.epochs)
    assert found.data.params == run.params
    assert steps(any_root, run.run_id, "train/loss") == [10, 20]
    assert found.data.metrics["train/loss"] == 0.05
    assert any(name.startswith("system/cpu") for name in found.data.metrics)
    (data,) = found.inputs.dataset_inputs
    assert (data.dataset.name, data.dataset.digest, data.dataset.source_type) == ("data", MD5, "dvc")
    assert json.loads(data.dataset.profile) == {"videos": {"train": 2, "test": 1}}
    assert found.data.tags["clipbert.data_digest"] == MD5
    assert found.data.tags["clipbert.git_commit"] == found.data.tags["mlflow.source.git.commit"] == "none"
    assert found.data.tags["clipbert.host"] == platform.node()
    assert [f.path for f in client.list_artifacts(run.run_id, "samples/step-0000020")] == [
        "samples/step-0000020/sample.png"
    ]


def train_and_fail(root: Path, error: BaseException) -> None:
    with start_training_run(root, "retrieval", {"lr": 0.1}) as run:
        for step in (10, 20, 30):
            run.log_metrics({"train/loss": 1.0}, step)
        raise error


@pytest.mark.parametrize(
    ("error", "status"), [(ClipBertError("the loss is not a number"), "FAILED"), (KeyboardInterrupt(), "KILLED")]
)
def test_training_that_fails_or_is_interrupted_is_resumed_without_doubled_steps(root, error, status):
    with pytest.raises(type(error)):
        train_and_fail(root, error)
    store = open_store(root)
    (first,) = store.client.search_runs([open_experiment(store, "retrieval")])
    assert first.info.status == status
    assert steps(root, first.info.run_id, "train/loss") == [10, 20, 30]
    with start_training_run(root, "retrieval", {"lr": 0.1}, resume_run_id=first.info.run_id) as again:
        assert store.client.get_run(again.run_id).info.status == "RUNNING"
        for step in (20, 30, 40):
            again.log_metrics({"train/loss": 2.0, "val/accuracy": 0.5}, step)
    (only,) = store.client.search_runs([open_experiment(store, "retrieval")])
    assert only.info.run_id == again.run_id == first.info.run_id
    assert only.info.status == "FINISHED"
    assert steps(root, again.run_id, "train/loss") == [10, 20, 30, 40]
    assert steps(root, again.run_id, "val/accuracy") == [20, 30, 40]


def test_run_to_resume_that_is_not_in_this_store_becomes_a_new_one(root):
    with start_training_run(root, "retrieval", {}, resume_run_id="f" * 32) as run:
        assert run.run_id != "f" * 32
    tags = open_store(root).client.get_run(run.run_id).data.tags
    assert tags["clipbert.resumed_from"] == "f" * 32


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_killed_training(root, number):
    """SystemExit, into which a training turns SIGTERM, ends the run as KILLED; after SIGKILL the next command that
    opens the store does, and the next training delivers what was measured."""
    program = """
        import signal, sys, time
        from pathlib import Path
        from clipbert.release.tracking import start_training_run
        def stop(number, frame):
            raise SystemExit(128 + number)
        signal.signal(signal.SIGTERM, stop)
        with start_training_run(Path(sys.argv[1]), "retrieval", {}) as run:
            run.log_metrics({"train/loss": 1.0}, 1)
            print(run.run_id, flush=True)
            time.sleep(60)
    """
    process = ForkedProgram(["-c", textwrap.dedent(program), str(root)])
    run_id = process.wait_for_line()
    process.send_signal(number)
    assert process.wait(timeout=30) == (143 if number == signal.SIGTERM else -number)
    client = open_store(root).client
    assert client.get_run(run_id).info.status == "KILLED"
    with start_training_run(root, "retrieval", {}):
        assert client.get_run(run_id).info.status == "KILLED"
        assert steps(root, run_id, "train/loss") == [1]


def test_running_training_of_a_living_process_is_left_alone(root):
    store = open_store(root)
    tags = {"clipbert.host": platform.node(), "clipbert.pid": str(os.getppid())}
    other = store.client.create_run(open_experiment(store, "retrieval"), tags=tags).info.run_id
    with start_training_run(root, "retrieval", {}):
        pass
    assert store.client.get_run(other).info.status == "RUNNING"


def test_store_that_fails_in_the_middle_does_not_stop_the_training(root, capsys, monkeypatch):
    monkeypatch.setattr("clipbert.release.sender.SEND_EVERY_S", 0.1)
    monkeypatch.setattr("clipbert.release.sender.FIRST_RETRY_S", 0.1)
    database, away = root / "mlflow" / "mlflow.db", root / "mlflow" / "away.db"
    with start_training_run(root, "retrieval", {}) as run:
        database.rename(away)
        database.mkdir()
        run.log_metrics({"train/loss": 1.0}, 1)
        continues = f"The training continues; its records are kept in {root}/mlflow/outbox/{run.run_id}."
        assert said(capsys, continues).startswith(f"MLflow store sqlite:///{database} does not accept metrics: ")
        database.rmdir()
        away.rename(database)
        run.log_metrics({"train/loss": 0.5}, 2)
        said(capsys, "MLflow answers again: ")
        assert steps(root, run.run_id, "train/loss") == [1, 2]
    assert list((root / "mlflow" / "outbox").iterdir()) == []


def test_values_that_are_no_numbers_and_many_values_are_kept(root):
    with start_training_run(root, "retrieval", {}) as run:
        for step in range(700):
            run.log_metrics({"train/loss": math.nan if step == 5 else 1.0, "train/lr": 0.1}, step)
    assert steps(root, run.run_id, "train/loss") == list(range(700))


def test_params_are_flat_and_cut_to_what_mlflow_takes(root):
    params = {"train": {"lr": 0.1, "nested": {"deep": None}}, "words": ["a", "b"], "long": "x" * 7000}
    flat = {"train.lr": "0.1", "train.nested.deep": "None", "words": '["a", "b"]', "long": "x" * 5999}
    assert flatten(params) == flat
    many = {f"p{number}": number for number in range(250)}
    with start_training_run(root, "retrieval", params | many) as run:
        pass
    assert open_store(root).client.get_run(run.run_id).data.params == flat | {k: str(v) for k, v in many.items()}


def test_evaluation_goes_into_the_run_of_the_training(any_root, picture, tmp_path):
    with start_training_run(any_root, "open_qa", {"seed": 1}) as run:
        run.log_metrics({"train/loss": 1.0}, 1)
    described = tmp_path / "open_qa.json"
    write_json(described, run.describe())
    report = tmp_path / "open_qa.html"
    report.write_text("<p>report</p>")
    assert log_evaluation(any_root, described, {"open_qa/accuracy": 61.5}, [report], [picture]) == run.run_id
    client = open_store(any_root).client
    found = client.get_run(run.run_id)
    assert found.data.metrics["open_qa/accuracy"] == 61.5
    assert found.info.status == "FINISHED"
    kept = {file.path for folder in ("evaluation", "predictions") for file in client.list_artifacts(run.run_id, folder)}
    assert kept == {"evaluation/open_qa.html", "predictions/sample.png"}


def test_run_from_another_store_is_restored_once(any_root, tmp_path):
    described = tmp_path / "retrieval.json"
    origin = {"clipbert.git_commit": "c0ffee", "clipbert.data_digest": MD5}
    params = {"train.lr": "0.5"}
    content = {"task": "retrieval", "run_id": "a" * 32, "run_name": "night", "params": params, "tags": origin}
    write_json(described, content)
    first = log_evaluation(any_root, described, {"retrieval/r1": 10.0})
    assert log_evaluation(any_root, described, {"retrieval/r1": 11.0}) == first != "a" * 32
    found = open_store(any_root).client.get_run(first)
    assert found.data.tags["clipbert.restored"] == "true"
    assert found.data.tags["clipbert.restored_from"] == "a" * 32
    assert found.data.params == params
    assert found.data.tags["clipbert.git_commit"] == found.data.tags["mlflow.source.git.commit"] == "c0ffee"
    assert found.inputs.dataset_inputs[0].dataset.digest == MD5
    assert found.info.run_name == "night (restored)"
    assert found.info.status == "FINISHED"
    assert steps(any_root, first, "retrieval/r1") == [0, 0]


def test_description_holds_no_absolute_path_of_the_embedded_store(root):
    with start_training_run(root, "retrieval", {"seed": 3}) as run:
        described = run.describe()
    assert described == {
        "task": "retrieval",
        "run_id": run.run_id,
        "run_name": run.name,
        "tracking_uri": "sqlite:///mlflow/mlflow.db",
        "params": {"seed": "3"},
        "tags": {**provenance(root), "clipbert.task": "retrieval"},
    }
    assert str(root) not in json.dumps(described)


def test_missing_description_says_how_to_get_one(root):
    with pytest.raises(
        ClipBertError, match=r"retrieval\.json: expected .*`dvc repro --force --single-item train@retrieval`"
    ):
        log_evaluation(root, root / "retrieval.json", {})
