"""Registration of trained models in MLflow's registry: one version for each digest of the model's files."""

import hashlib
import json
import math
import shutil
import tempfile
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import Any

import mlflow
from mlflow.entities import LoggedModelOutput, Metric
from mlflow.exceptions import MlflowException
from mlflow.models import Model

import clipbert
from clipbert.config.schema import EvaluateParams, FramesParams
from clipbert.config.tasks import TaskSection, task_names
from clipbert.console import console
from clipbert.errors import ClipBertError
from clipbert.evaluation.conditions import ATTRIBUTE, to_tags
from clipbert.evaluation.item_checks import check_predictions
from clipbert.evaluation.predictions_file import check_metrics, read_predictions_file
from clipbert.files.atomic import sha256_file
from clipbert.files.signed_json import read_signed_json, write_signed_json
from clipbert.model.weights.card import CARD, model_card, with_results, write_card
from clipbert.model.weights.checksums import check_model
from clipbert.redact import redact_values
from clipbert.release.aliases import CANDIDATE, CHAMPION, aliases
from clipbert.release.connection import open_experiment, open_store
from clipbert.release.delivery import open_store_and_deliver
from clipbert.release.descriptions import NOTE, description, model_description
from clipbert.release.lineage_record import record_lineage, warn_uncommitted
from clipbert.release.lock_file import model_outputs
from clipbert.release.metric_names import tracked_metrics
from clipbert.release.orphans import UNFINISHED
from clipbert.release.ownership import check_version_owner, ownership_tags, version_ownership_tags
from clipbert.release.provenance import NONE, data_digest, process_tags
from clipbert.release.runs import DATASET, MAX_DIGEST_LENGTH, find_run
from clipbert.release.served_settings import describe_differences, served_settings
from clipbert.release.session import release_session
from clipbert.release.signatures import input_example, signature
from clipbert.release.store import (
    DEFAULT_NAME,
    EMBEDDED,
    Store,
    default_store,
    embedded_uri,
    model_name,
    store_errors,
    tracking_uri,
)
from clipbert.tasks import task_class

PACKAGES = ("torch", "transformers", "safetensors", "tokenizers", "numpy", "pandas", "pillow", "decord", "av", "rich")


@dataclass(frozen=True)
class Release:
    """Registered version of a model."""

    task: str
    name: str
    version: str
    run_id: str
    digest: str
    alias: str


def register(
    root: Path,
    task: str,
    model_dir: Path,
    run_json: Path,
    metrics_json: Path,
    predictions_parquet: Path,
    out: Path,
    *,
    release_name: str,
    evaluate: EvaluateParams,
    frames: FramesParams,
    task_params: TaskSection,
) -> Release:
    """Register a trained model as NAME-TASK (`release.name`), give it the alias `candidate`, and write `out`.

    Registration is idempotent: if a version with this digest exists, nothing is uploaded, and its alias, metrics and
    predictions are updated. Registrations, promotions and rollbacks of a task wait for each other.

    Args:
        root: the project's folder.
        model_dir: the model folder of the task.
        run_json: artifacts/runs/TASK.json of the training.
        metrics_json, predictions_parquet: the files of the evaluation.
        out: the JSON file for the registered version.
        release_name: release.name.
        evaluate, frames, task_params: sections of params.yaml, the last one that of the task.

    Raises:
        ClipBertError: an input is missing or damaged, or the store cannot be used.
    """
    metrics = _read_metrics(metrics_json)
    items, stored = read_predictions_file(predictions_parquet, task)
    check_metrics(metrics_json, metrics, None if stored is None else _finite(stored))
    recorded = check_predictions(items, str(predictions_parquet), task).attrs.get(ATTRIBUTE, {})
    digest = model_digest(model_dir)
    check_model(model_dir)
    settings = served_settings(task, model_dir, evaluate, frames, task_params)
    store = open_store_and_deliver(root, release_name)
    open_experiment(store, task)
    name = store.model_name(task)
    with release_session(store, task, name), store_errors(store.uri, f"cannot register {name}"):
        version = find_version(store, name, digest)
        if version is None:
            run_id = find_run(store, run_json)
            version = _create_version(store, task, run_id, model_dir, digest, settings)
        check_version_owner(store, version, CANDIDATE)
        conditions = to_tags({"clips": evaluate.clips, **recorded})
        _log_evaluation_of_version(store, task, version, metrics, conditions, predictions_parquet, model_dir)
        files = zip(model_outputs(task), (model_dir, run_json, metrics_json, predictions_parquet), strict=True)
        run_of_training = read_signed_json(run_json, "").get("run_id")
        lineage = record_lineage(store, task, version, dict(files), run_of_training)
        store.client.set_registered_model_alias(name, CANDIDATE, version.version)
    release = Release(task, name, str(version.version), str(version.run_id), digest, CANDIDATE)
    write_signed_json(out, asdict(release))
    warn_uncommitted(root, lineage)
    if line := describe_differences(model_dir, settings, evaluate, frames, task_params):
        console.print(line)
    return release


@dataclass(frozen=True)
class TaskState:
    """State of a task's model in the registry."""

    task: str
    name: str
    version: str | None  # of the model in the project's folder; None: not registered
    aliases: tuple[str, ...]  # of that version
    champion: str | None

    @property
    def next_command(self) -> str:
        """The next command to run; empty if the model is the champion."""
        if self.version is None:
            return f"clipbert register {self.task}"
        if self.version == self.champion:
            return ""
        return f"clipbert {'promote' if CANDIDATE in self.aliases else 'register'} {self.task}"


@dataclass(frozen=True)
class RegistryState:
    """Address of the store, without passwords, and the state of each task."""

    store: str
    tasks: dict[str, TaskState]


def registry_state(root: Path, digests: Mapping[str, str], release_name: str = DEFAULT_NAME) -> RegistryState:
    """Look up models by their digests, without creating an embedded store.

    Args:
        root: the project's folder.
        digests: the model digest of each task.
        release_name: release.name.

    Raises:
        ClipBertError: the store cannot be used.
    """
    if tracking_uri(root) == embedded_uri(root) and not (root / EMBEDDED).is_file():
        unknown = {task: TaskState(task, model_name(task, release_name), None, (), None) for task in digests}
        return RegistryState(f"{EMBEDDED} (not created yet)", unknown)
    store = open_store(root, release_name)
    states = {}
    for task, digest in digests.items():
        name = store.model_name(task)
        with store_errors(store.uri, "cannot be read"):
            known, version = aliases(store, name), find_version(store, name, digest)
        number = None if version is None else str(version.version)
        own = tuple(sorted(alias for alias, version_number in known.items() if version_number == number))
        states[task] = TaskState(task, name, number, own, known.get(CHAMPION))
    return RegistryState(str(EMBEDDED) if store.embedded else store.display_uri, states)


def model_digest(model_dir: Path) -> str:
    """Return the SHA-256 over the sorted names and SHA-256s of a model's files, without its card.

    The card describes the origin of a model, including the commit; a different description of the same weights does
    not make a new version.

    Raises:
        ClipBertError: the folder is missing or contains no model.
    """
    if not (model_dir / "config.json").is_file():
        raise ClipBertError(
            f"{model_dir}: no model here (config.json is missing). Train it: `clipbert train {model_dir.name}`."
        )
    files = sorted(path for path in model_dir.rglob("*") if path.is_file() and path != model_dir / CARD)
    lines = [f"{path.relative_to(model_dir).as_posix()} {sha256_file(path)}\n" for path in files]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def predictions_path(task: str, digest: str) -> str:
    """Return the artifact path of a version's predictions in its run, which may have those of several versions."""
    return f"predictions/{task}-{digest[:12]}.parquet"


def download_model(store: Store, name: str, version: str, destination: Path) -> Path:
    """Download a version and return the path of its model folder, after a check of its digest.

    Raises:
        ClipBertError: the files are not those that were registered.
    """
    with default_store(store):
        downloaded = mlflow.artifacts.download_artifacts(f"models:/{name}/{version}", dst_path=str(destination))
    flavor = Model.load(downloaded).flavors["python_function"]
    folder = Path(downloaded, flavor["artifacts"]["model"]["path"])
    found, expected = model_digest(folder), store.client.get_model_version(name, version).tags.get("digest")
    if found != expected:
        raise ClipBertError(
            f"{name} version {version}: its files in {store.display_uri} are not those that were registered: their "
            f"digest is {found[:12]}..., expected {str(expected)[:12]}... Restore the artifacts of the store from a "
            "backup, or register the model again from its own folder."
        )
    return folder


def _task_of(path: Path) -> str:
    """Return the task of a file TASK.json or TASK.parquet; the word TASK for another name."""
    return path.stem if path.stem in task_names() else "TASK"


def find_version(store: Store, name: str, digest: str) -> Any:
    found = store.client.search_model_versions(f"name = '{name}' and tags.digest = '{digest}'")
    return max(found, key=lambda version: int(version.version), default=None)


def _create_version(
    store: Store, task: str, run_id: str, model_dir: Path, digest: str, settings: dict[str, Any]
) -> Any:
    client, name = store.client, store.model_name(task)
    run = client.get_run(run_id)
    logged = client.create_logged_model(
        run.info.experiment_id,
        name=name,
        source_run_id=run_id,
        params=redact_values(dict(run.data.params)),
        tags={"digest": digest, UNFINISHED: "true", **process_tags()},
    )
    try:
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch, "model")
            save_mlflow_model(folder, model_dir, settings, Model(run_id=run_id, model_id=logged.model_id))
            client.log_model_artifacts(logged.model_id, str(folder))
    except BaseException:
        client.finalize_logged_model(logged.model_id, "FAILED")
        raise
    client.finalize_logged_model(logged.model_id, "READY")
    client.log_outputs(run_id, [LoggedModelOutput(logged.model_id, step=0)])
    try:
        client.create_registered_model(name, tags=ownership_tags(store))
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    tags = {
        "digest": digest,
        "model_id": logged.model_id,
        **version_ownership_tags(store),
        **{name: run.data.tags.get(f"clipbert.{name}", NONE) for name in ("git_commit", "data_digest")},
    }
    with default_store(store):
        version = client.create_model_version(
            name, f"models:/{logged.model_id}", run_id=run_id, tags=tags, model_id=logged.model_id
        )
    # If the process is killed before this line, the next command deletes the model (see orphans.py).
    client.delete_logged_model_tag(logged.model_id, UNFINISHED)
    return version


def save_mlflow_model(folder: Path, model_dir: Path, settings: dict[str, Any], mlflow_model: Model) -> None:
    """Write the MLflow model: the code of this package, the model folder, the signature and the requirements.

    Args:
        folder: where to write it.
        settings: what `served_settings` returned for `model_dir`.
        mlflow_model: the metadata of a run and a logged model, or an empty `Model()`.
    """
    serving = task_class(settings["task"]).serving
    package = Path(clipbert.__file__).parent
    mlflow.pyfunc.save_model(
        str(folder),
        python_model=str(package / "release" / "mlflow_model.py"),
        artifacts={"model": str(model_dir.resolve())},
        code_paths=[str(package)],
        model_config=settings,
        signature=signature(serving, settings),
        input_example=input_example(serving),
        pip_requirements=[f"{name}=={installed_version(name).partition('+')[0]}" for name in PACKAGES],
        mlflow_model=mlflow_model,
    )
    for cache in folder.rglob("__pycache__"):
        shutil.rmtree(cache)


def _log_evaluation_of_version(
    store: Store,
    task: str,
    version: Any,
    metrics: Mapping[str, float],
    conditions: Mapping[str, str],
    predictions: Path,
    model_dir: Path,
) -> None:
    """Store the last evaluation: tags and metrics of the version, its model card, and predictions as a run artifact.

    Args:
        conditions: the tags that describe the conditions of the evaluation.
    """
    wanted = {f"metric.{key}": f"{value:.6g}" for key, value in metrics.items()}
    wanted |= conditions
    wanted |= {
        "evaluation.data_digest": data_digest(store.root),
        "evaluation.predictions": sha256_file(predictions),
    }
    stale = [key for key in version.tags if key.startswith("evaluation.") and key not in wanted]
    stored = _artifact_sha256(store, version.run_id, predictions_path(task, version.tags["digest"]))
    current = all(version.tags.get(key) == value for key, value in wanted.items())
    described = bool(version.description)  # versions of older releases have no description
    if current and not stale and described and stored == wanted["evaluation.predictions"]:
        return
    now, data = int(time.time() * 1000), data_digest(store.root)[:MAX_DIGEST_LENGTH]
    store.client.log_batch(
        version.run_id,
        metrics=[
            Metric(key, value, now, 0, model_id=version.tags["model_id"], dataset_name=DATASET, dataset_digest=data)
            for key, value in tracked_metrics(metrics).items()
        ],
    )
    with tempfile.TemporaryDirectory() as scratch:
        artifact = Path(predictions_path(task, version.tags["digest"]))
        copy = Path(scratch, artifact.name)
        shutil.copyfile(predictions, copy)
        store.client.log_artifact(version.run_id, str(copy), str(artifact.parent))
        origin = (
            f"{conditions['evaluation.clips']} clips of each video, the test split of the data that DVC hashes as "
            f"`{wanted['evaluation.data_digest']}`. MLflow run `{version.run_id}`, digest `{version.tags['digest']}`."
        )
        card = with_results(
            _card(task, model_dir), task, metrics, wanted["evaluation.data_digest"], origin, version.name
        )
        write_card(Path(scratch, "model", "artifacts", model_dir.name), card)
        store.client.log_model_artifacts(version.tags["model_id"], str(Path(scratch, "model")))
    store.client.set_tag(version.run_id, NOTE, description(card))
    store.client.update_model_version(version.name, version.version, description(card))
    store.client.update_registered_model(version.name, model_description(card, str(version.version)))
    for key, value in wanted.items():
        store.client.set_model_version_tag(version.name, version.version, key, value)
    for key in stale:
        store.client.delete_model_version_tag(version.name, version.version, key)


def _artifact_sha256(store: Store, run_id: str, artifact: str) -> str | None:
    """Return the SHA-256 of an artifact in the store; None if it is not there."""
    with tempfile.TemporaryDirectory() as scratch:
        try:
            return sha256_file(Path(store.client.download_artifacts(run_id, artifact, scratch)))
        except (MlflowException, OSError):
            return None


def _card(task: str, model_dir: Path) -> str:
    """Return the card that the training wrote, or a shorter one for a model of an older version."""
    if (model_dir / CARD).is_file():
        return (model_dir / CARD).read_text(encoding="utf-8")
    config = json.loads((model_dir / "config.json").read_text(encoding="utf-8"))
    return model_card(task_class(task).card, str(model_dir), config["architectures"][0], {})


def _read_metrics(path: Path) -> dict[str, float]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        metrics = {str(key): float(value) for key, value in found.items()}
    except (OSError, UnicodeDecodeError, ValueError, TypeError, AttributeError) as error:
        raise ClipBertError(
            f'{path}: expected flat metrics such as {{"retrieval/r1": 42.0}} ({error}). '
            f"Evaluate again: `clipbert evaluate {_task_of(path)}`."
        ) from error
    return _finite(metrics)


def _finite(metrics: Mapping[str, float]) -> dict[str, float]:
    return {key: value for key, value in metrics.items() if math.isfinite(value)}
