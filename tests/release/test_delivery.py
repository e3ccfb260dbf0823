"""Metrics and a server that goes away, clients that are killed: every value in MLflow once, and in order."""

import json
import random
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from forked_python import ForkedProgram, run_program
from gate import Gate
from mlflow import MlflowClient
from mlflow_server import MlflowServer

from clipbert.errors import ClipBertError
from clipbert.files.atomic import write_json
from clipbert.release.connection import open_experiment, open_store
from clipbert.release.delivery import open_store_and_deliver, sync
from clipbert.release.outbox import Outbox, outbox_folder, pending_outboxes
from clipbert.release.tracking import log_evaluation, start_training_run

# A training: a step every few milliseconds, a checkpoint every tenth; SystemExit at SIGTERM (training/stopping.py).
TRAINING = """
import json, signal, sys, time
from pathlib import Path
from clipbert.files.atomic import write_json
from clipbert.release import sender
from clipbert.release.tracking import start_training_run
sender.SEND_EVERY_S, sender.FIRST_RETRY_S, sender.LONGEST_RETRY_S = 0.05, 0.05, 0.2
def stop(number, frame):
    raise SystemExit(128 + number)
signal.signal(signal.SIGTERM, stop)
root, last = Path(sys.argv[1]), int(sys.argv[2])
checkpoint = root / "checkpoint.json"
state = json.loads(checkpoint.read_text()) if checkpoint.exists() else {"step": 0, "run_id": None}
with start_training_run(root, "retrieval", {"lr": 0.1}, state["run_id"]) as run:
    write_json(checkpoint, {"step": state["step"], "run_id": run.run_id})
    print("started", flush=True)
    for step in range(state["step"] + 1, last + 1):
        run.log_metrics({"train/loss": 1 / step, "train/lr": 0.1}, step)
        if step % 10 == 0:
            run.log_metrics({"val/r1": float(step)}, step)
            run.flush()
            write_json(checkpoint, {"step": step, "run_id": run.run_id})
        time.sleep(0.005)
print("ended", flush=True)
"""


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """A sender that looks often, and gives up soon at the end."""
    for name, seconds in {"SEND_EVERY_S": 0.1, "FIRST_RETRY_S": 0.1, "LONGEST_RETRY_S": 0.3}.items():
        monkeypatch.setattr(f"clipbert.release.sender.{name}", seconds)


@pytest.fixture
def remote(root: Path, mortal_server: MlflowServer, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project whose store is the server that may be killed."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mortal_server.address)
    return root


@pytest.fixture
def gate(root: Path, mortal_server: MlflowServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    """The same behind a gate."""
    gate = Gate(mortal_server.port)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", gate.address)
    yield gate
    gate.close()


def train(root: Path, last: int = 1) -> ForkedProgram:
    """Returns when it has begun to train."""
    process = ForkedProgram(["-c", TRAINING, str(root), str(last)])
    process.wait_for_line("started")  # MLflow may have printed the address of a run before
    return process


def clipbert(root: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    return run_program("-m", "clipbert", *arguments, cwd=root)


def steps(root: Path, run_id: str, key: str) -> list[int]:
    return [metric.step for metric in open_store(root).client.get_metric_history(run_id, key)]


def status(root: Path, run_id: str) -> str:
    return str(open_store(root).client.get_run(run_id).info.status)


def assert_each_once(root: Path, run_id: str) -> None:
    """Of every key, the system's too: no step twice, and in order."""
    client = open_store(root).client
    for key in client.get_run(run_id).data.metrics:
        found = [metric.step for metric in client.get_metric_history(run_id, key)]
        assert found == sorted(set(found)), key


def until_delivered(root: Path, run_id: str, step: int) -> None:
    for _ in range(300):
        try:
            if step in steps(root, run_id, "train/loss"):
                return
        except ClipBertError:
            pass
        time.sleep(0.1)
    raise AssertionError(f"step {step} not delivered in half a minute")


def test_server_dies_and_comes_back_during_the_run_and_dies_again_until_after_its_end(
    remote, mortal_server, quick, capsys, tmp_path
):
    with start_training_run(remote, "retrieval", {"lr": 0.1}) as run:
        for step in range(1, 1501):
            run.log_metrics({"train/loss": 1 / step}, step)
            if step == 200:
                until_delivered(remote, run.run_id, 1)
                mortal_server.stop(signal.SIGKILL)
        mortal_server.start()
        until_delivered(remote, run.run_id, 1500)
        assert steps(remote, run.run_id, "train/loss") == list(range(1, 1501))
        mortal_server.stop(signal.SIGKILL)
        run.log_metrics({"train/loss": 0.0}, 1501)
    write_json(tmp_path / "retrieval.json", run.describe())
    kept = (
        f" of {run.name}, kept in {remote}/mlflow/outbox/{run.run_id} (MLflow store {mortal_server.address} does not "
    )
    *_, last = capsys.readouterr().err.splitlines()
    assert last.startswith("Not delivered to MLflow yet: ")
    assert kept in last
    assert last.endswith("Run `clipbert track sync retrieval` to deliver it.")

    away = f"MLflow store {mortal_server.address} cannot be used: "
    for use in (
        lambda: log_evaluation(remote, tmp_path / "retrieval.json", {"retrieval/r1": 50.0}),
        lambda: start_training_run(remote, "open_qa", {}).__enter__(),
    ):
        with pytest.raises(ClipBertError) as caught:
            use()
        assert str(caught.value).startswith(away)
        assert f" of {run.name}. Run `clipbert track sync` when the store answers." in str(caught.value)
    failed = clipbert(remote, "track", "sync")
    assert failed.returncode == 2
    assert failed.stderr.startswith("clipbert: Not delivered to MLflow: ")
    assert away in failed.stderr

    mortal_server.start()
    assert status(remote, run.run_id) == "RUNNING"
    done = clipbert(remote, "track", "sync", "retrieval")
    assert (done.returncode, done.stderr) == (0, "")
    assert f"status FINISHED delivered to {mortal_server.address}." in done.stdout
    assert status(remote, run.run_id) == "FINISHED"
    assert steps(remote, run.run_id, "train/loss") == list(range(1, 1502))
    assert_each_once(remote, run.run_id)
    assert clipbert(remote, "track", "sync").stdout == "Nothing to deliver to MLflow.\n"


def test_training_killed_at_random_moments_beside_a_server_that_comes_and_goes(root, gate):
    chance = random.Random(1)
    last, kills = 600, 0
    while True:
        process = train(root, last)
        if kills == 3:
            gate.open = True
            out, err = process.communicate(timeout=120)
            assert (out.splitlines()[-1], process.returncode) == ("ended", 0), err
            break
        for _ in range(2):
            time.sleep(chance.random() / 2)
            gate.shut() if gate.open else setattr(gate, "open", True)
        process.kill()
        process.communicate()
        kills += 1
        gate.open = gate.open or kills == 1
    run_id = json.loads((root / "checkpoint.json").read_text())["run_id"]
    sync(root)
    assert steps(root, run_id, "train/loss") == steps(root, run_id, "train/lr") == list(range(1, last + 1))
    assert steps(root, run_id, "val/r1") == list(range(10, last + 1, 10))
    assert_each_once(root, run_id)
    assert status(root, run_id) == "FINISHED"


def test_answers_that_are_lost_double_nothing(root, gate, quick):
    with start_training_run(root, "retrieval", {}) as run:
        gate.swallowing = b"runs/log-batch"
        for step in range(1, 51):
            run.log_metrics({"train/loss": 1 / step}, step)
            time.sleep(0.01)
        while gate.swallowed < 3:
            time.sleep(0.1)
        gate.swallowing = None
    assert steps(root, run.run_id, "train/loss") == list(range(1, 51))
    assert pending_outboxes(root) == []


def test_client_killed_before_it_could_mark_what_the_server_took(root, capsys):
    """The state on disk after such a kill: all records, and a mark from before them."""
    with start_training_run(root, "retrieval", {}) as run:
        folder = outbox_folder(root, run.run_id)
        for step in range(1, 31):
            run.log_metrics({"train/loss": 1 / step}, step)
        run.flush()
        shutil.copytree(folder, root / "before")
    assert not folder.exists()
    (root / "before" / "lock").unlink()
    (root / "before").rename(folder)
    sync(root)
    assert f"{run.name}: 30 values up to step 30 delivered to sqlite:///" in capsys.readouterr().out
    assert steps(root, run.run_id, "train/loss") == list(range(1, 31))


def test_resumed_training_goes_on_without_its_server(root, gate):
    first = train(root, 10**6)
    time.sleep(2.5)
    first.kill()
    first.communicate()
    gate.shut()
    second = train(root, 10**6)
    time.sleep(2.5)
    second.terminate()
    _, err = second.communicate(timeout=60)
    assert second.returncode == 143
    said = err.splitlines()
    assert said[0].startswith(f"MLflow store {gate.address} cannot be used: ")
    assert said[3].startswith("The training continues; its records are kept in ")
    assert said[-1].endswith("Run `clipbert track sync retrieval` to deliver it.")
    gate.open = True
    checkpoint = json.loads((root / "checkpoint.json").read_text())
    # Asked for directly: a command that opens the store ends the runs of dead processes.
    assert MlflowClient(gate.address).get_run(checkpoint["run_id"]).info.status == "RUNNING"
    sync(root, "retrieval")
    run_id = checkpoint["run_id"]
    assert status(root, run_id) == "KILLED"
    found = steps(root, run_id, "train/loss")
    assert found == list(range(1, len(found) + 1))
    assert checkpoint["step"] <= len(found) < checkpoint["step"] + 10
    assert_each_once(root, run_id)
    assert len(steps(root, run_id, "system/cpu_utilization_percentage")) >= 4


def test_evaluation_delivers_what_waits_first(root, monkeypatch, capsys):
    with start_training_run(root, "retrieval", {}) as run:
        pass
    outbox = Outbox(outbox_folder(root, run.run_id))
    outbox.write_run(run.describe())
    outbox.append("metrics", {"step": 7, "values": {"train/loss": 1.0}})
    outbox.close()
    write_json(root / "run.json", run.describe())
    log_evaluation(root, root / "run.json", {"retrieval/r1": 50.0})
    assert f"{run.name}: 1 value up to step 7 delivered" in capsys.readouterr().out
    assert steps(root, run.run_id, "train/loss") == [7]


def left_behind(root: Path, *keys: str) -> str:
    """A run with one value a key in its outbox."""
    store = open_store(root)
    run = store.client.create_run(open_experiment(store, "retrieval"), run_name="night").info
    outbox = Outbox(outbox_folder(root, run.run_id))
    described = {"run_id": run.run_id, "run_name": "night", "task": "retrieval"}
    outbox.write_run({**described, "tracking_uri": "sqlite:///mlflow/mlflow.db"})
    for step, key in enumerate(keys, 1):
        outbox.append("metrics", {"step": step, "values": {key: 1.0}})
    outbox.close()
    return str(run.run_id)


def test_deleted_run_is_named_with_what_to_do_and_delivered_when_it_is_back(root, capsys):
    run_id = left_behind(root, "loss")
    other = left_behind(root, "loss")
    client = open_store(root).client
    client.delete_run(run_id)
    with pytest.raises(ClipBertError) as caught:
        sync(root)
    assert str(caught.value).splitlines() == [
        "Not delivered to MLflow: 1 value of night.",
        f"run {run_id} was deleted from MLflow store sqlite:///{root}/mlflow/mlflow.db: restore it with "
        f"`MLFLOW_TRACKING_URI=sqlite:///mlflow/mlflow.db mlflow runs restore --run-id {run_id}`, "
        f"or delete {root}/mlflow/outbox/{run_id} to discard its undelivered records.",
    ]
    assert steps(root, other, "loss") == [1]
    client.restore_run(run_id)
    sync(root)
    assert steps(root, run_id, "loss") == [1]


def test_run_of_another_store_waits_for_that_store(root, monkeypatch, empty_database, tmp_path, capsys):
    run_id = left_behind(root, "loss")
    shutil.copyfile(empty_database, tmp_path / "other.db")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/other.db")
    with pytest.raises(ClipBertError) as caught:
        sync(root)
    assert (
        f"other.db does not have run {run_id}, which belongs to sqlite:///mlflow/mlflow.db: unset MLFLOW_TRACKING_URI"
        in str(caught.value)
    )
    open_store_and_deliver(root)
    assert capsys.readouterr().err.startswith("Not delivered to MLflow yet: 1 value of night. MLflow store ")
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    sync(root)
    assert steps(root, run_id, "loss") == [1]


def test_value_that_mlflow_refuses_and_line_that_is_damaged_hold_up_nothing(root, capsys):
    run_id = left_behind(root, "a", "not allowed?", "b", "c")
    records = outbox_folder(root, run_id) / "records.jsonl"
    lines = records.read_bytes().splitlines(keepends=True)
    records.write_bytes(b"".join([*lines[:2], lines[2].replace(b"1.0", b"2.0"), lines[3]]))
    sync(root)
    err = capsys.readouterr().err
    assert f"night: line 3 of {run_id} is damaged; skipped." in err
    assert "night: MLflow rejects not allowed? at step 2 (" in err
    assert set(open_store(root).client.get_run(run_id).data.metrics) == {"a", "c"}
    assert pending_outboxes(root) == []


def test_second_sync_at_the_same_time_says_so(root):
    run_id = left_behind(root, "loss")
    program = """
        import sys, time
        from pathlib import Path
        from clipbert.release.outbox import Outbox
        outbox = Outbox(Path(sys.argv[1]))
        print("mine", flush=True)
        time.sleep(60)
    """
    command = [sys.executable, "-c", textwrap.dedent(program), str(outbox_folder(root, run_id))]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as first:
        assert first.stdout is not None
        first.stdout.readline()
        with pytest.raises(ClipBertError, match=f"process {first.pid} is delivering it"):
            sync(root)
        open_store_and_deliver(root)
        first.kill()
    sync(root)
    assert steps(root, run_id, "loss") == [1]
