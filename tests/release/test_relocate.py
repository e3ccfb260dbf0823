"""A project that was moved: one diagnosis from every verb, and a repair after which everything works."""

import shutil
import sqlite3

import pytest
from mlflow.tracking._tracking_service import utils
from policies import task_policy

from clipbert.cli.doctor import check_mlflow
from clipbert.errors import ClipBertError
from clipbert.release.aliases import aliases
from clipbert.release.connection import open_store
from clipbert.release.delivery import sync
from clipbert.release.promotion import promote, rollback
from clipbert.release.registry import download_model, model_digest
from clipbert.release.relocate import BACKUP, relocate
from clipbert.release.runs import log_evaluation
from clipbert.release.tracking import start_training_run

NAME = "clipbert-retrieval"


@pytest.fixture
def moved(root, tmp_path, release_embedded, predictions):
    """A project with a champion and a better candidate, renamed."""
    release_embedded(0, predictions(30))
    promote(root, "retrieval", task_policy())
    release_embedded(1, predictions(55))
    # MLflow remembers the folders of runs, and a user's move comes between two processes.
    utils._artifact_repos_cache.clear()
    return root.rename(tmp_path / "100% moved #2")


def test_every_verb_gives_the_same_diagnosis(moved, root):
    log_path = moved / "run-0.json"
    messages = set()
    for attempt in (
        lambda: open_store(moved),
        lambda: promote(moved, "retrieval", task_policy()),
        lambda: rollback(moved, "retrieval"),
        lambda: log_evaluation(moved, log_path, {"retrieval/r1": 1.0}),
        lambda: start_training_run(moved, "retrieval", {}).__enter__(),
    ):
        with pytest.raises(ClipBertError) as caught:
            attempt()
        messages.add(str(caught.value))
    (message,) = messages
    assert f"recorded under {root / 'mlflow' / 'artifacts'}, but this project is at {moved}." in message
    assert "run `clipbert track relocate`" in message
    (finding,) = check_mlflow(moved)
    assert finding.problem == message
    sync(moved)  # has nothing to deliver, so it does not need the store


def test_after_the_repair_everything_works(moved, root, make_model, release_in, predictions, tmp_path, monkeypatch):
    done = relocate(moved)
    assert done.old == (root,)
    assert done.changed >= 6
    assert (moved / BACKUP).is_file()
    assert relocate(moved).old == ()
    store = open_store(moved)
    assert model_digest(download_model(store, NAME, "1", tmp_path / "down")) == model_digest(make_model("retrieval", 0))
    assert promote(moved, "retrieval", task_policy()).decision == "promoted"
    assert aliases(store, NAME) == {"candidate": "2", "champion": "2", "previous": "1"}
    assert rollback(moved, "retrieval").champion == "1"
    log_evaluation(moved, moved / "run-0.json", {"retrieval/r1": 50.0}, [moved / "run-0.json"])
    with start_training_run(moved, "retrieval", {"lr": 0.1}):
        pass
    assert release_in(moved)(0, predictions(30)).version == "1"
    assert not root.exists()
    with sqlite3.connect(moved / "mlflow" / "mlflow.db") as database:
        assert str(root) not in "".join(line for line in database.iterdump() if "artifact" in line.lower())


def test_a_copy_leaves_the_original_alone(root, tmp_path, release_embedded, predictions):
    release_embedded(0, predictions(30))
    copy = tmp_path / "copy"
    shutil.copytree(root, copy)
    relocate(copy)
    assert aliases(open_store(root), NAME) == aliases(open_store(copy), NAME) == {"candidate": "1"}
    location = open_store(copy).client.get_experiment_by_name(NAME).artifact_location
    assert location == str(copy / "mlflow" / "artifacts")


def test_two_moves_and_back(moved, root, tmp_path):
    relocate(moved)
    moved.rename(root)
    assert relocate(root).old == (moved,)
    open_store(root)


def test_files_that_did_not_move_along_are_named(moved):
    (moved / "mlflow" / "artifacts").rename(moved / "elsewhere")
    with pytest.raises(ClipBertError, match=r"artifacts: not found: move the store's files here"):
        relocate(moved)
    with pytest.raises(ClipBertError, match="track relocate"):
        open_store(moved)


def test_a_store_in_use_is_left_as_it_is(moved, monkeypatch):
    monkeypatch.setattr("clipbert.release.relocate.LOCK_TIMEOUT_S", 0.1)
    with sqlite3.connect(moved / "mlflow" / "mlflow.db", isolation_level=None) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(ClipBertError, match=r"database is locked.*`make ui`"):
            relocate(moved)
        other.execute("ROLLBACK")
    assert relocate(moved).changed


def test_a_kill_before_the_end_changes_nothing(moved, monkeypatch):
    def die(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("clipbert.release.relocate.COLUMNS", (("experiments", "artifact_location"), ("runs", None)))
        patch.setattr(
            "clipbert.release.relocate._replace",
            lambda db, table, *rest: (
                db.execute("UPDATE experiments SET artifact_location = 'x'").rowcount
                if table == "experiments"
                else die()
            ),
        )
        with pytest.raises(KeyboardInterrupt):
            relocate(moved)
    with pytest.raises(ClipBertError, match="track relocate"):
        open_store(moved)
    assert relocate(moved).changed


def test_no_store_to_correct(tmp_path):
    with pytest.raises(ClipBertError, match="no embedded MLflow store"):
        relocate(tmp_path)
