"""Several processes on one task, and a store that goes away between two alias changes."""

import json
import multiprocessing
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from agreement import NAME, assert_agreement
from mlflow import MlflowClient
from policies import task_policy
from small_releases import register_sections

from clipbert.config.schema import Params
from clipbert.errors import ClipBertError
from clipbert.release.aliases import alias_state, aliases
from clipbert.release.connection import open_store
from clipbert.release.history import history
from clipbert.release.promotion import promote, rollback
from clipbert.release.registry import register
from clipbert.release.task_lock import task_lock

GATE = task_policy()


def registered(root: Path, model: Path, files: dict[str, Path], out: Path) -> None:
    """Register, in a process of its own."""
    sections = register_sections("retrieval", Params())
    release = register(root, "retrieval", model, files["run"], files["metrics"], files["table"], out, **sections)
    out.with_suffix(".version").write_text(release.version)


def test_four_registrations_of_one_model_at_once_give_one_version(root, make_model, predictions):
    files = {"run": root / "run.json", "metrics": root / "metrics.json", "table": root / "items.parquet"}
    files["run"].write_text(json.dumps({"task": "retrieval", "run_id": "0" * 32}))
    files["metrics"].write_text('{"retrieval/r1": 50.0}')
    predictions(30).to_parquet(files["table"])
    outs = [root / f"out-{number}.json" for number in range(4)]
    context = multiprocessing.get_context("fork")
    model = make_model("retrieval", 0)
    processes = [context.Process(target=registered, args=(root, model, files, out)) for out in outs]
    for process in processes:
        process.start()
    for process in processes:
        process.join(timeout=120)
    assert [process.exitcode for process in processes] == [0, 0, 0, 0]
    assert [out.with_suffix(".version").read_text() for out in outs] == ["1", "1", "1", "1"]
    store = open_store(root)
    assert len(store.client.search_model_versions(f"name = '{NAME}'")) == 1
    experiments = [experiment.experiment_id for experiment in store.client.search_experiments()]
    assert len(store.client.search_logged_models(experiments)) == 1


def test_commands_of_a_task_wait_for_each_other_and_say_so(root, release_embedded, predictions, capfd):
    for seed, correct in ((0, 30), (1, 48)):
        release_embedded(seed, predictions(correct))
        promote(root, "retrieval", GATE)
    with ThreadPoolExecutor(3) as pool:
        with task_lock(root, "retrieval"):
            waiting = [
                pool.submit(rollback, root, "retrieval"),
                pool.submit(release_embedded, 1, predictions(48)),
                pool.submit(promote, root, "retrieval", GATE),
            ]
            while capfd.readouterr().err.count("Waiting") < 1 and not any(each.done() for each in waiting):
                time.sleep(0.02)
            assert not any(each.done() for each in waiting)
            assert alias_state(open_store(root), NAME)["champion"] == "2"
            assert [event.decision for event in history(root)] == ["promoted", "promoted"]
            assert "A promotion, rollback or registration of retrieval is running" in capfd.readouterr().err
        assert [each.exception(timeout=60) for each in waiting] == [None, None, None]
    assert alias_state(open_store(root), NAME) == {"champion": "1", "previous": None}
    assert_agreement(root)


@pytest.mark.parametrize("command", ["promote", "rollback"])
def test_server_killed_between_the_alias_changes(
    root, release_embedded, predictions, mortal_server, monkeypatch, capfd, command
):
    """The message says that the change is half done; the next command completes it when the server is back."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mortal_server.address)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    for seed, correct in ((0, 30), (1, 48)):
        release_embedded(seed, predictions(correct))
        if seed == 0 or command == "rollback":
            promote(root, "retrieval", GATE)
    store = open_store(root)
    before = alias_state(store, NAME)
    move = MlflowClient.set_registered_model_alias

    def once(*arguments: object) -> None:
        move(*arguments)
        mortal_server.stop(signal.SIGKILL)

    try:
        with monkeypatch.context() as patch:
            patch.setattr(MlflowClient, "set_registered_model_alias", once)
            with pytest.raises(ClipBertError) as caught:
                promote(root, "retrieval", GATE) if command == "promote" else rollback(root, "retrieval")
        message = str(caught.value)
        assert "it is not known whether its aliases were moved. `clipbert history retrieval` completes" in message
        assert "nothing was changed" not in message
        assert [event.decision for event in history(root)][-1] == "interrupted"
        mortal_server.start()
        assert alias_state(store, NAME) != before
        capfd.readouterr()
        after = {"promote": ("promoted", "2"), "rollback": ("rolled_back", "1")}[command]
        last = history(root)[-1]
        assert (last.decision, last.champion_to) == after
        assert "was interrupted; it was completed: champion" in capfd.readouterr().err
        assert aliases(store, NAME)["champion"] == after[1]
        assert_agreement(root)
    finally:
        if mortal_server.process is None:
            mortal_server.start()
        store.client.delete_registered_model(NAME)
