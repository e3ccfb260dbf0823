"""Cleanup after killed commands: runs that are still marked as RUNNING and models without a version."""

import platform
from collections.abc import Mapping
from typing import Any

import psutil
from mlflow.entities import LoggedModelStatus

from clipbert.config.tasks import task_names
from clipbert.release.outbox import is_locked, outbox_folder
from clipbert.release.store import Store

UNFINISHED = "clipbert.unfinished"  # tag of a model whose files are being uploaded or that has no version yet
CLOCK_S = 2.0  # tolerance between two readings of a process's start time


def clean_up_orphans(store: Store) -> None:
    """End the runs and delete the unfinished models of processes of this machine that no longer exist.

    Runs and models of other machines and of running processes are not changed.
    """
    names = {store.model_name(task) for task in task_names()}
    found = store.client.search_experiments(filter_string=f"name LIKE '{store.name}-%'")
    ids = [str(experiment.experiment_id) for experiment in found if experiment.name in names]
    if not ids:
        return
    here = f"tags.`clipbert.host` = '{platform.node()}'"
    for run in store.client.search_runs(ids, filter_string=f"attributes.status = 'RUNNING' and {here}"):
        locked = is_locked(outbox_folder(store.root, run.info.run_id))
        if not locked and not owner_is_alive(run.data.tags):
            store.client.set_terminated(run.info.run_id, "KILLED")
    # MLflow 3.17 accepts a filter by status but returns nothing for it.
    for model in store.client.search_logged_models(ids, filter_string=f"tags.`{UNFINISHED}` = 'true' AND {here}"):
        if owner_is_alive(model.tags):
            continue
        ready = model.status == LoggedModelStatus.READY
        if model.status == LoggedModelStatus.PENDING or (ready and not _has_version(store, model)):
            store.client.delete_logged_model(model.model_id)
        else:
            store.client.delete_logged_model_tag(model.model_id, UNFINISHED)


def _has_version(store: Store, model: Any) -> bool:
    """Return whether a registered version was made from a logged model."""
    query = f"name = '{model.name}' and tags.model_id = '{model.model_id}'"
    return bool(store.client.search_model_versions(query))


def owner_is_alive(tags: Mapping[str, str]) -> bool:
    """Return whether the process that `provenance.process_tags` described still runs; True if the tags are missing."""
    pid = tags.get("clipbert.pid", "")
    if not pid.isdigit():
        return True
    try:
        started = psutil.Process(int(pid)).create_time()
    except psutil.NoSuchProcess:
        return False
    except psutil.Error:
        return True
    expected = tags.get("clipbert.pid_started")
    return expected is None or abs(float(expected) - started) <= CLOCK_S
