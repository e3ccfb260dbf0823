"""Lineage of a registered version: what is stored in MLflow at its registration, and how it is read."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from clipbert.console import errors
from clipbert.errors import ClipBertError
from clipbert.redact import redact
from clipbert.release.lock_file import (
    LOCK,
    Stages,
    data_entry,
    difference,
    md5_of,
    output_hashes,
    read_lock,
    stages_of_task,
    write_lock,
)
from clipbert.release.provenance import NONE, read_committed
from clipbert.release.run_names import EXPERIMENT_TAG, dvc_experiment
from clipbert.release.runs import active_run, split_counts
from clipbert.release.store import Store, store_errors
from clipbert.release.stored_source import SOURCE_TAG, Source, download, read_source, record_source, upload

FOLDER = "lineage"  # of a run's artifacts
LINEAGE_TAG = "lineage"  # of a version: the SHA-256 of lineage.json
DVC_LOCK_TAG = "dvc_lock"  # of a version: the SHA-256 of the stored dvc.lock
DESCRIPTION = "lineage.json"
VALIDATION = "artifacts/validation"
SPLIT_CHECKS = ("split_by_media", "split_by_file", "near_duplicates")


@dataclass(frozen=True)
class Lineage:
    """What `lineage.json` says about a version.

    Attributes:
        task, digest: of the version.
        run_id: the run that has the source.
        source: digest of the source in that run, see `stored_source`.
        source_from: "training", or "registration" for a run without a source, such as one of an older version.
        outputs: path to MD5 of model, run description, metrics and predictions.
        lock: SHA-256 of the stored dvc.lock; "none" if there is none.
        stages: its stages.
        lock_problem: why it does not describe the outputs; None if it does.
        data: md5, size and nfiles of data/ as dvc.lock has them.
        sizes: "videos" and "texts", each with the number in each split.
        validation: `summarize_validation` of the data; None if the validation of these data is not known.
        flow_run: Prefect's flow run that registered the version; "none" without one.
    """

    task: str
    digest: str
    run_id: str
    source: str
    source_from: str
    outputs: dict[str, str]
    lock: str = NONE
    stages: list[str] = field(default_factory=list)
    lock_problem: str | None = None
    data: dict[str, Any] = field(default_factory=dict)
    sizes: dict[str, dict[str, int]] = field(default_factory=dict)
    validation: dict[str, Any] | None = None
    flow_run: str = NONE


@dataclass(frozen=True)
class StoredLineage:
    """Lineage of a version with its source and lock file."""

    lineage: Lineage
    source: Source
    stages: Stages


def record_lineage(store: Store, task: str, version: Any, files: Mapping[str, Path], run_id: str | None) -> Lineage:
    """Store the lineage of a version that is being registered; nothing is uploaded if it is stored already.

    An earlier lineage whose dvc.lock describes the version stays if the present dvc.lock does not.

    Args:
        version: MLflow's model version.
        files: path of each of `model_outputs`, as the graph names it, to where it is.
        run_id: the run of the training in this folder; None if it is not known.
    """
    outputs = {name: md5_of(path) for name, path in files.items()}
    run = run_id if run_id is not None and active_run(store, run_id) is not None else str(version.run_id)
    tags = store.client.get_run(run).data.tags
    source = tags.get(SOURCE_TAG)
    origin = "training"
    if source is None:
        _, source = record_source(store, run)
        origin = "registration"
        store.client.set_tag(run, f"{SOURCE_TAG}_from", origin)
    else:
        origin = tags.get(f"{SOURCE_TAG}_from", origin)
    stages, problem = _present_lock(store.root, task, outputs)
    earlier = None if LINEAGE_TAG not in version.tags else _read(store, version)
    if problem is not None and earlier is not None and earlier.lock_problem is None:
        return earlier
    lock = write_lock(stages).encode() if stages else None
    root = store.root
    lineage = Lineage(
        task=task,
        digest=version.tags["digest"],
        run_id=run,
        source=source,
        source_from=origin,
        outputs=outputs,
        lock=NONE if lock is None else hashlib.sha256(lock).hexdigest(),
        stages=list(stages),
        lock_problem=problem,
        data={key: value for key, value in (data_entry(stages) or {}).items() if key in ("md5", "size", "nfiles")},
        sizes=split_counts(root / "artifacts" / "manifest"),
        validation=_validation(root, stages),
        flow_run=tags.get("clipbert.flow_run", NONE),
    )
    _write(store, version, lineage, lock)
    return lineage


def read_lineage(store: Store, version: Any) -> StoredLineage | None:
    """Return the lineage of a version; None for one that an older version of clipbert registered.

    A lock file that was not complete at the registration (as within one stage that trains and registers, or before a
    `dvc commit`) is completed from the project's present or committed dvc.lock, if that describes the version.

    Raises:
        ClipBertError: a stored file is missing, or its digest is another one.
    """
    if LINEAGE_TAG not in version.tags:
        return None
    title = f"{version.name} version {version.version}"
    lineage = _read(store, version)
    if lineage.lock_problem is not None and (completed := _completed(store, version, lineage)):
        lineage = completed
    stages: Stages = {}
    if lineage.lock != NONE:
        digest = _digest(lineage)
        content = download(store, str(version.run_id), f"{FOLDER}/{digest[:12]}/{LOCK}", lineage.lock, title)
        stages = read_lock(content.decode(), f"{title}: {LOCK}")
    return StoredLineage(lineage, read_source(store, lineage.run_id, lineage.source, title), stages)


def require_lineage(store: Store, version: Any) -> StoredLineage:
    """Return the lineage of a version.

    Raises:
        ClipBertError: it has none, or a stored file is missing or damaged.
    """
    with store_errors(store.uri, "cannot be read"):
        stored = read_lineage(store, version)
    if stored is None:
        raise ClipBertError(
            f"{version.name} version {version.version} was registered by an older version of clipbert, without its "
            "code and dvc.lock. Train and register again to get a version that can be restored."
        )
    return stored


def warn_uncommitted(root: Path, lineage: Lineage) -> None:
    """Print what to do if no commit has the lock file that describes a version.

    `dvc exp run` saves the lock file with the experiment.
    """
    if lineage.lock_problem is not None:
        errors.print(
            f"{lineage.task}: {lineage.lock_problem}, so this version cannot be restored from it. Run the stages with "
            f"`dvc repro`, or record what you ran with `dvc commit`; then `clipbert register {lineage.task}`."
        )
    elif dvc_experiment() is None and not has_lock(read_committed(root, LOCK), lineage):
        errors.print(
            f"{lineage.task}: {LOCK} of this version is not committed. After the run, commit it with the parameters: "
            f"`git add {LOCK} params.yaml && git commit`."
        )


def has_lock(text: str | None, lineage: Lineage) -> bool:
    """Return whether a dvc.lock describes a version as its stored one does."""
    if text is None or not all(md5 in text for md5 in lineage.outputs.values()):
        return False
    try:
        stages = stages_of_task(read_lock(text), lineage.task)
    except ClipBertError:
        return False
    return hashlib.sha256(write_lock(stages).encode()).hexdigest() == lineage.lock


def summarize_validation(result: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a lineage keeps of artifacts/validation/result.json.

    Returns:
        success; failed, warned: names of checks; splits: check to whether the splits share no media (by it);
        near_duplicates: media of val and test that resemble another split's, of how many, and the share allowed.
    """
    outcomes = [outcome for outcome in result.get("expectations", []) if isinstance(outcome, dict)]
    bad = [outcome for outcome in outcomes if not outcome.get("success")]
    near = result.get("near_duplicates") or {}
    return {
        "success": bool(result.get("success")),
        "failed": sorted({str(outcome["check"]) for outcome in bad if outcome.get("severity") != "warn"}),
        "warned": sorted({str(outcome["check"]) for outcome in bad if outcome.get("severity") == "warn"}),
        "splits": {
            check: all(outcome.get("success") for outcome in outcomes if outcome.get("check") == check)
            for check in SPLIT_CHECKS
            if any(outcome.get("check") == check for outcome in outcomes)
        },
        "near_duplicates": {name: near[name] for name in ("media", "of", "max_near_duplicates") if name in near},
    }


def experiment_of(store: Store, lineage: Lineage) -> str | None:
    """Return the name of the DVC experiment in which a version was trained; None outside of one."""
    tags: dict[str, str] = store.client.get_run(lineage.run_id).data.tags
    return tags.get(EXPERIMENT_TAG)


def _present_lock(root: Path, task: str, outputs: Mapping[str, str]) -> tuple[Stages, str | None]:
    """Return the stages of the present dvc.lock that made a model, and why they do not describe it."""
    try:
        stages = stages_of_task(read_lock((root / LOCK).read_text(encoding="utf-8")), task)
    except FileNotFoundError:
        return {}, f"{LOCK} is missing"
    except (OSError, UnicodeDecodeError, ClipBertError) as error:
        return {}, redact(str(error))
    if problem := difference(stages, outputs):
        return {}, problem
    text = write_lock(stages)
    if redact(text) != text:
        return {}, f"{LOCK} contains what looks like a password, token or key and is not stored"
    return stages, None


def _validation(root: Path, stages: Stages) -> dict[str, Any] | None:
    """Return the validation in the project's folder if the lock file says that it is the one of the model's data."""
    recorded = output_hashes(stages).get(VALIDATION)
    try:
        result = json.loads((root / VALIDATION / "result.json").read_text(encoding="utf-8"))
        if recorded is None or md5_of(root / VALIDATION) != recorded:
            return None
        return summarize_validation(result)
    except (OSError, ValueError, KeyError, AttributeError):
        return None


def _completed(store: Store, version: Any, lineage: Lineage) -> Lineage | None:
    """Complete a lineage whose lock file did not describe the version; None if that is not possible yet."""
    stages, problem = _present_lock(store.root, lineage.task, lineage.outputs)
    if problem is not None:
        return None
    lock = write_lock(stages).encode()
    data = {key: value for key, value in (data_entry(stages) or {}).items() if key in ("md5", "size", "nfiles")}
    values = asdict(lineage) | {
        "lock": hashlib.sha256(lock).hexdigest(),
        "stages": list(stages),
        "lock_problem": None,
        "data": data,
        "validation": _validation(store.root, stages),
    }
    completed = Lineage(**values)
    _write(store, version, completed, lock)
    return completed


def _write(store: Store, version: Any, lineage: Lineage, lock: bytes | None) -> None:
    """Upload a lineage; the tag is set last, so a killed upload changes nothing."""
    digest = _digest(lineage)
    if version.tags.get(LINEAGE_TAG) == digest:
        return
    files = {DESCRIPTION: _json(lineage)}
    if lock is not None:
        files[LOCK] = lock
    upload(store, str(version.run_id), f"{FOLDER}/{digest[:12]}", files)
    tags = {DVC_LOCK_TAG: lineage.lock, LINEAGE_TAG: digest}
    for key, value in tags.items():
        store.client.set_model_version_tag(version.name, version.version, key, value)
        version.tags[key] = value


def _read(store: Store, version: Any) -> Lineage:
    digest = version.tags[LINEAGE_TAG]
    title = f"{version.name} version {version.version}"
    artifact = f"{FOLDER}/{digest[:12]}/{DESCRIPTION}"
    return Lineage(**json.loads(download(store, str(version.run_id), artifact, digest, title)))


def _digest(lineage: Lineage) -> str:
    return hashlib.sha256(_json(lineage)).hexdigest()


def _json(lineage: Lineage) -> bytes:
    return (json.dumps(asdict(lineage), indent=2, sort_keys=True, ensure_ascii=False) + "\n").encode()
