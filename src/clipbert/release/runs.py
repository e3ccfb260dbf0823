"""MLflow runs: creation with provenance, lookup, and the log of an evaluation."""

import json
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, RunTag
from mlflow.exceptions import MlflowException

from clipbert.config.tasks import task_names
from clipbert.errors import ClipBertError
from clipbert.evaluation.conditions import to_tags
from clipbert.files.signed_json import read_signed_json
from clipbert.redact import redact, redact_values
from clipbert.release.connection import open_experiment
from clipbert.release.delivery import open_store_and_deliver
from clipbert.release.metric_names import tracked_metrics
from clipbert.release.provenance import provenance
from clipbert.release.store import DEFAULT_NAME, Store, is_absent, store_errors

MAX_PARAMS_PER_BATCH = 100
MAX_VALUE_LENGTH = 5999
MAX_DIGEST_LENGTH = 36
DATASET = "data"
RUN_DESCRIPTION = "the description of a training run, a JSON object with task and run_id"


def create_run(store: Store, experiment_id: str, name: str, params: Mapping[str, str], tags: Mapping[str, str]) -> Any:
    """Create a run with its parameters, tags and data/ as its dataset; return MLflow's RunInfo.

    Args:
        tags: include the keys of `provenance`.
    """
    mlflow_tags = {
        "mlflow.source.name": tags["clipbert.command"],
        "mlflow.source.type": "LOCAL",
        "mlflow.source.git.commit": tags["clipbert.git_commit"],
        "mlflow.user": tags["clipbert.user"],
    }
    cut = {key: redact(value)[:MAX_VALUE_LENGTH] for key, value in {**tags, **mlflow_tags}.items()}
    info = store.client.create_run(experiment_id, run_name=name, tags=cut).info
    entries = [Param(key, value) for key, value in params.items()]
    for start in range(0, len(entries), MAX_PARAMS_PER_BATCH):
        store.client.log_batch(info.run_id, params=entries[start : start + MAX_PARAMS_PER_BATCH])
    _log_dataset(store, info.run_id, tags)
    return info


def active_run(store: Store, run_id: str | None) -> Any:
    """Return MLflow's RunInfo of a run; None if the store does not have it or it was deleted."""
    if run_id is None:
        return None
    try:
        info = store.client.get_run(run_id).info
    except MlflowException as error:
        if is_absent(error) or error.error_code == "INVALID_PARAMETER_VALUE":
            return None
        raise
    return info if info.lifecycle_stage == "active" else None


def find_run(store: Store, run_json: Path) -> str:
    """Return the id of the run that `run_json` describes; restore the run if this store does not have it.

    A restored run has the tags clipbert.restored = true and clipbert.restored_from, by which later calls find it.

    Raises:
        ClipBertError: `run_json` is missing or damaged, or the store cannot be written.
    """
    remedy = (
        f"Restore it with `dvc checkout --force {_below(run_json)}`, or train again: "
        f"`dvc repro --force --single-item train@{run_json.stem}`."
    )
    described = read_signed_json(run_json, remedy, RUN_DESCRIPTION)
    if missing := [name for name in ("task", "run_id") if name not in described]:
        raise ClipBertError(f"{run_json}: expected {RUN_DESCRIPTION}; {missing[0]} is missing. {remedy}")
    task, old_id = str(described["task"]), str(described["run_id"])
    if run_json.stem in task_names() and task != run_json.stem:
        raise ClipBertError(f"{run_json}: expected the run of {run_json.stem}, found a run of {task}. {remedy}")
    with store_errors(store.uri, "cannot be read"):
        if active_run(store, old_id) is not None:
            return old_id
    experiment_id = open_experiment(store, task)
    with store_errors(store.uri, "cannot be written"):
        query = f"tags.`clipbert.restored_from` = '{old_id}'"
        for run in store.client.search_runs([experiment_id], filter_string=query, max_results=1):
            return str(run.info.run_id)
        name = f"{described.get('run_name') or task} (restored)"
        origin = provenance(store.root) | flatten(described.get("tags") or {})
        tags = origin | {"clipbert.task": task, "clipbert.restored": "true", "clipbert.restored_from": old_id}
        info = create_run(store, experiment_id, name, flatten(described.get("params") or {}), tags)
        store.client.set_terminated(info.run_id, "FINISHED")
    return str(info.run_id)


def _below(path: Path) -> str:
    """Return a path relative to the project's folder, as DVC expects it."""
    return "/".join(path.parts[-3:])


def log_evaluation(
    root: Path,
    run_json: Path,
    metrics: Mapping[str, float],
    files: Iterable[Path] = (),
    pictures: Iterable[Path] = (),
    name: str = DEFAULT_NAME,
    conditions: Mapping[str, Any] | None = None,
) -> str:
    """Log an evaluation to the run that trained the model and return that run's id.

    A model from the DVC cache may have been trained elsewhere; its run is then restored, see `find_run`.

    Args:
        root: the project's folder.
        run_json: artifacts/runs/TASK.json.
        metrics: flat; logged at step 0 under the names of `metric_names`.
        files: logged under evaluation/.
        pictures: PNG or JPEG files, logged under predictions/.
        name: release.name, the prefix of the experiment of a restored run.
        conditions: the conditions of the evaluation (`evaluation.conditions`), which become tags: unlike parameters,
            they may differ from those of the training.

    Raises:
        ClipBertError: the store cannot be used, or `run_json` is missing or damaged.
    """
    store = open_store_and_deliver(root, name)
    run_id = find_run(store, run_json)
    now = int(time.time() * 1000)
    with store_errors(store.uri, "cannot store the evaluation"):
        store.client.log_batch(
            run_id,
            metrics=[Metric(key, value, now, 0) for key, value in tracked_metrics(metrics).items()],
            tags=[RunTag(key, value) for key, value in to_tags(conditions or {}).items()],
        )
        for folder, paths in (("evaluation", files), ("predictions", pictures)):
            for path in paths:
                store.client.log_artifact(run_id, str(path), folder)
    return run_id


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Flatten {"train": {"lr": 0.1}} to {"train.lr": "0.1"}; write lists as JSON, redact secrets, cut long values."""
    flat: dict[str, str] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            text = json.dumps(value) if isinstance(value, list | tuple) else str(value)
            flat[f"{prefix}{key}"] = redact_values(text, str(key))[:MAX_VALUE_LENGTH]
    return flat


def _log_dataset(store: Store, run_id: str, tags: Mapping[str, str]) -> None:
    """Log data/ as an MLflow dataset: its digest is DVC's hash, its profile the manifest's counts by split."""
    dataset = Dataset(
        name=DATASET,
        digest=tags["clipbert.data_digest"][:MAX_DIGEST_LENGTH],
        source_type="dvc",
        source=json.dumps({"path": "data", "tracked_by": "data.dvc", "git_commit": tags["clipbert.git_commit"]}),
        profile=json.dumps(split_counts(store.root / "artifacts" / "manifest")),
    )
    context = InputTag("mlflow.data.context", "training")
    store.client.log_inputs(run_id, [DatasetInput(dataset, [context])])


def split_counts(manifest: Path) -> dict[str, dict[str, int]]:
    """Return the number of "videos" and of "texts" in each split of a manifest; empty without one."""
    tables = [path for path in (manifest / "videos.parquet", manifest / "texts.parquet") if path.is_file()]
    splits = {path.stem: pd.read_parquet(path, columns=["split"])["split"].value_counts() for path in tables}
    return {name: {str(split): int(count) for split, count in counts.items()} for name, counts in splits.items()}
