"""What killed commands left in the store is cleared by the next command; what lives or is elsewhere stays."""

import os
import subprocess
import sys

import pytest
from forked_python import run_program

from clipbert.release.connection import open_experiment, open_store
from clipbert.release.orphans import UNFINISHED, owner_is_alive
from clipbert.release.outbox import Outbox, outbox_folder
from clipbert.release.provenance import process_tags
from clipbert.release.store import default_store

NAME = "clipbert-retrieval"


@pytest.fixture
def dead() -> dict[str, str]:
    """The tags of a process of this machine that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process_tags() | {"clipbert.pid": str(process.pid)}


def test_pending_models_and_running_runs_of_dead_processes_are_cleared(any_root, dead):
    store = open_store(any_root)
    experiment = open_experiment(store, "retrieval")
    elsewhere = dead | {"clipbert.host": "another-machine"}
    reused = process_tags() | {"clipbert.pid_started": "1.00"}  # the process id is another process's now
    kinds = {"dead": dead, "reused": reused, "alive": process_tags(), "elsewhere": elsewhere}
    unfinished = {UNFINISHED: "true"}
    models = {k: store.client.create_logged_model(experiment, name=NAME, tags=kinds[k] | unfinished) for k in kinds}
    runs = {kind: store.client.create_run(experiment, tags=kinds[kind]).info.run_id for kind in kinds}
    open_store(any_root)
    statuses = {kind: store.client.get_run(run_id).info.status for kind, run_id in runs.items()}
    assert statuses == {"dead": "KILLED", "reused": "KILLED", "alive": "RUNNING", "elsewhere": "RUNNING"}
    left = {model.model_id for model in store.client.search_logged_models([experiment])}
    assert left == {models["alive"].model_id, models["elsewhere"].model_id}


def test_finished_models_with_a_version_stay(root, dead):
    store = open_store(root)
    experiment = open_experiment(store, "retrieval")
    model = store.client.create_logged_model(experiment, name=NAME, tags=dead | {UNFINISHED: "true"})
    store.client.finalize_logged_model(model.model_id, "READY")
    store.client.create_registered_model(NAME)
    source, tags = f"models:/{model.model_id}", {"model_id": model.model_id}
    with default_store(store):
        store.client.create_model_version(NAME, source, tags=tags, model_id=model.model_id)
    open_store(root)
    assert [found.model_id for found in store.client.search_logged_models([experiment])] == [model.model_id]


def test_a_run_whose_outbox_is_held_is_under_way(root, dead):
    """Its training was resumed by another process while the store was away."""
    store = open_store(root)
    run_id = store.client.create_run(open_experiment(store, "retrieval"), tags=dead).info.run_id
    outbox = Outbox(outbox_folder(root, run_id))
    open_store(root)
    assert store.client.get_run(run_id).info.status == "RUNNING"
    outbox.close()
    open_store(root)
    assert store.client.get_run(run_id).info.status == "KILLED"


def register_killed_in(function, root, make_model, predictions):
    """Register in a process that kills itself where it would call `function`."""
    program = f"""
import os, signal, sys
from pathlib import Path
from mlflow import MlflowClient
from clipbert.release import registry
from clipbert.config.schema import Params
{function} = lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)
root, model = Path(sys.argv[1]), Path(sys.argv[2])
params = Params()
sections = dict(evaluate=params.evaluate, frames=params.frames, task_params=params.tasks.retrieval)
sections["release_name"] = params.release.name
names = ("run.json", "metrics.json", "predictions.parquet", "out.json")
registry.register(root, "retrieval", model, *(root / name for name in names), **sections)
"""
    predictions(30).to_parquet(root / "predictions.parquet")
    (root / "run.json").write_text('{"task": "retrieval", "run_id": "' + "0" * 32 + '"}')
    (root / "metrics.json").write_text('{"retrieval/r1": 1.0}')
    done = run_program("-c", program, str(root), str(make_model("retrieval", 0)), cwd=root)
    assert done.returncode == -9, done.stderr


def test_a_kill_while_a_model_is_uploaded_leaves_nothing_pending(root, make_model, release_embedded, predictions):
    register_killed_in("registry.save_mlflow_model", root, make_model, predictions)
    assert release_embedded(0, predictions(30)).version == "1"
    store = open_store(root)
    experiment = store.client.get_experiment_by_name(NAME).experiment_id
    assert [model.status.value for model in store.client.search_logged_models([experiment])] == ["READY"]


def test_a_kill_before_the_version_leaves_one_model_after_the_next_command(
    root, make_model, release_embedded, predictions
):
    """Its files are complete and no version has them."""
    register_killed_in("MlflowClient.create_model_version", root, make_model, predictions)
    assert release_embedded(0, predictions(30)).version == "1"
    store = open_store(root)
    experiment = store.client.get_experiment_by_name(NAME).experiment_id
    (model,) = store.client.search_logged_models([experiment])
    assert (model.status.value, UNFINISHED in model.tags) == ("READY", False)
    assert store.client.get_model_version(NAME, "1").tags["model_id"] == model.model_id


def test_tags_that_do_not_say_are_no_proof():
    assert owner_is_alive({})
    assert owner_is_alive({"clipbert.pid": str(os.getpid())})
