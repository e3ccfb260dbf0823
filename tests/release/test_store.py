import contextlib
import socket
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from clipbert.errors import ClipBertError
from clipbert.release.connection import open_experiment, open_store
from clipbert.release.runs import log_evaluation
from clipbert.release.store import tracking_uri
from clipbert.release.tracking import start_training_run


def test_embedded_store_is_made_under_mlflow_and_nowhere_else(tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)
    root = tmp_path / "new project"
    store = open_store(root)
    experiment_id = open_experiment(store, "retrieval")
    assert store.uri == tracking_uri(root) == f"sqlite:///{root}/mlflow/mlflow.db"
    experiment = store.client.get_experiment(experiment_id)
    assert (experiment.name, experiment.artifact_location) == ("clipbert-retrieval", str(root / "mlflow" / "artifacts"))
    assert sorted(path.name for path in root.rglob("*")) == [
        ".mlflow.db.lock",
        "artifacts",
        "mlflow",
        "mlflow.db",
        "project.json",
    ]
    assert [path.name for path in tmp_path.iterdir()] == ["new project"]
    assert open_experiment(open_store(root), "retrieval") == experiment_id


@pytest.mark.slow
def test_two_processes_may_create_the_embedded_store_at_once(tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    code = (
        "import sys, pathlib\n"
        "from clipbert.release.connection import open_experiment, open_store\n"
        "print('imported', flush=True); sys.stdin.read(1)\n"
        "print(open_experiment(open_store(pathlib.Path(sys.argv[1])), sys.argv[2]))"
    )
    started = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(tmp_path), task],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for task in ("retrieval", "open_qa")
    ]
    for process in started:  # both have imported before either begins
        assert process.stdout is not None
        assert process.stdout.readline() == "imported\n"
    for process in started:
        assert process.stdin is not None
        process.stdin.write("x")
        process.stdin.flush()
    output = [process.communicate(timeout=300) for process in started]
    assert [process.returncode for process in started] == [0, 0], output
    assert len({stdout for stdout, _ in output}) == 2


def test_environment_names_another_store(root, monkeypatch, tmp_path):
    (root / "mlflow" / "mlflow.db").rename(tmp_path / "runs.db")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/runs.db")
    store = open_store(root)
    open_experiment(store, "retrieval")
    assert (store.uri, store.embedded) == (f"sqlite:///{tmp_path}/runs.db", False)
    assert not (root / "mlflow" / "mlflow.db").exists()


@pytest.mark.slow
def test_store_that_cannot_be_written_stops_before_training(tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (tmp_path / "mlflow").write_text("a file where the folder should be")
    with pytest.raises(ClipBertError) as caught, start_training_run(tmp_path, "retrieval", {}):
        pytest.fail("the training started")
    message = str(caught.value)
    assert f"MLflow store sqlite:///{tmp_path}/mlflow/mlflow.db cannot be used" in message
    assert "MLFLOW_TRACKING_URI" in message
    assert [path.name for path in tmp_path.iterdir()] == ["mlflow"]


@pytest.mark.slow
def test_artifacts_that_cannot_be_written_stop_before_training(root):
    (root / "mlflow" / "artifacts").write_text("a file where the folder should be")
    message = r"cannot be written: .*File exists"
    with pytest.raises(ClipBertError, match=message), start_training_run(root, "retrieval", {}):
        pytest.fail("the training started")


def test_file_that_is_not_a_database(root):
    (root / "mlflow" / "mlflow.db").write_text("this is not a database, and longer than a header of one\n" * 20)
    with pytest.raises(ClipBertError, match=r"cannot be used: .*file is not a database"):
        open_store(root)


def test_database_of_an_older_mlflow_says_how_to_upgrade(root):
    with sqlite3.connect(root / "mlflow" / "mlflow.db") as database:
        database.execute("UPDATE alembic_version SET version_num = '451aebb31d03'")
    with pytest.raises(ClipBertError, match=r"out-of-date database schema .*mlflow db upgrade"):
        open_store(root)


@pytest.mark.timeout(100)  # MLflow's own retries take longer
def test_server_that_is_not_there_is_noticed_in_seconds(root, monkeypatch):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        uri = f"http://127.0.0.1:{free.getsockname()[1]}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    refused = (
        rf"MLflow store {uri} cannot be used: Failed to establish a new connection: \[Errno 111\] Connection refused\n"
    )
    with pytest.raises(ClipBertError, match=refused) as caught:
        open_store(root)
    assert "Start the server (`make ui` for a local one)" in str(caught.value)


@pytest.mark.timeout(100)  # MLflow's own retries take longer
def test_server_that_never_answers_is_noticed_in_seconds(root, monkeypatch):
    monkeypatch.setattr("clipbert.release.store.CONNECT_TIMEOUT_S", 1)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{silent.getsockname()[1]}")
        with pytest.raises(ClipBertError, match=r"cannot be used: .*timed out"):
            open_store(root)


def test_something_else_that_answers_is_no_store(root, monkeypatch):
    def answer(server: socket.socket) -> None:
        with contextlib.suppress(OSError):  # the test closes the server, asked twice or not
            for _ in range(2):
                connection, _ = server.accept()
                with connection:
                    connection.recv(4096)
                    connection.sendall(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\nConnection: close\r\n\r\nno")

    with socket.create_server(("127.0.0.1", 0)) as other:
        threading.Thread(target=answer, args=(other,), daemon=True).start()
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://someone:s3cret@127.0.0.1:{other.getsockname()[1]}")
        with pytest.raises(ClipBertError, match="403") as caught:
            open_store(root)
    assert "s3cret" not in str(caught.value)
    assert "http://***@127.0.0.1" in str(caught.value)


@pytest.mark.parametrize("uri", ["./mlruns", "gopher://somewhere", "postgresql://me:pw@127.0.0.1:9/runs"])
def test_address_of_no_usable_kind(root, monkeypatch, uri, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    with pytest.raises(ClipBertError, match="MLFLOW_TRACKING_URI takes http://HOST:PORT") as caught:
        open_store(root)
    assert ":pw@" not in str(caught.value)


def test_moved_project_is_told_so(root, tmp_path):
    open_experiment(open_store(root), "retrieval")
    moved = tmp_path / "moved"
    root.rename(moved)
    with pytest.raises(ClipBertError, match=f"this project is at {moved}. .*`clipbert track relocate`"):
        open_store(moved)


def test_deleted_experiment_says_how_to_restore_it(root):
    store = open_store(root)
    experiment_id = open_experiment(store, "retrieval")
    store.client.delete_experiment(experiment_id)
    with pytest.raises(ClipBertError, match=f"mlflow experiments restore --experiment-id {experiment_id}"):
        open_experiment(store, "retrieval")


def test_evaluation_needs_the_store_too(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:////dev/null/here/mlflow.db")
    with pytest.raises(ClipBertError, match=r"sqlite:////dev/null/here/mlflow.db cannot be used: .*Not a directory"):
        log_evaluation(tmp_path, Path("run.json"), {})
