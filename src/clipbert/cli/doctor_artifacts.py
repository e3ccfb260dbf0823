"""Checks of the pipeline's files for `clipbert doctor`: each damaged file and how to restore it."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

from clipbert.errors import ClipBertError
from clipbert.files.checksums import CHECKSUMS, DamagedError, problem_of, read_checksums
from clipbert.files.signed_json import read_signed_json
from clipbert.project import Project


def damaged_artifacts(root: Path) -> Iterator[tuple[str, str | None, list[str]]]:
    """Check every kind of file that the pipeline writes.

    All files are read once, except the shards of the caches of frames and features: only their sizes are checked here,
    and every byte of frames by `clipbert frames --repair`.

    Yields:
        (kind, number of checked files or None if there are none, problems).
    """
    project = Project(root)
    kinds: dict[str, Callable[[Project], tuple[int, list[str]]]] = {
        "manifest": _manifest,
        "probes": _probes,
        "frame cache": _frames,
        "feature caches": _features,
        "models": _models,
        "pretrained parts": _parts,
        "history": _history,
        "checkpoints": _checkpoints,
        "evaluations": _evaluations,
        "descriptions": _descriptions,
    }
    for kind, check in kinds.items():
        count, problems = check(project)
        yield kind, f"{count} file(s)" if count else None, problems


def _manifest(project: Project) -> tuple[int, list[str]]:
    if not project.manifest.is_dir():
        return 0, []
    return _listed(project.manifest, "Rerun: clipbert ingest", required=True)


def _probes(project: Project) -> tuple[int, list[str]]:
    from clipbert.data.ingest.probe_cache import find_damage

    path = project.artifacts / "probes" / "probes.sqlite"
    problem = find_damage(path)
    remedy = "Remove it; the next clipbert ingest probes every file again"
    return int(path.is_file()), [] if problem is None else [f"{path}: damaged ({problem}). {remedy}"]


def _frames(project: Project) -> tuple[int, list[str]]:
    return _cache(project.frames, "Repair the cache: clipbert frames --repair")


def _features(project: Project) -> tuple[int, list[str]]:
    checked = [
        _cache(folder, f"Remove {folder}; the next training computes the features again")
        for folder in _folders(project.features)
    ]
    return sum(count for count, _ in checked), [problem for _, problems in checked for problem in problems]


def _cache(folder: Path, remedy: str) -> tuple[int, list[str]]:
    """Check the index, the quarantine and the sizes of the shards of a cache of frames or features."""
    from clipbert.data.quarantine import NotDecoded, read_quarantine
    from clipbert.frame_cache.index import INDEX_FILE, QUARANTINE_FILE, Index

    path = folder / INDEX_FILE
    if not path.is_file():
        return 0, []
    ends: dict[str, int] = {}
    try:
        for entry in Index(path):
            ends[entry.shard] = max(ends.get(entry.shard, 0), entry.offset + entry.length)
    except ClipBertError as error:
        return 1, [str(error)]
    problems = []
    try:
        read_quarantine(folder / QUARANTINE_FILE, NotDecoded)
    except ClipBertError as error:
        problems.append(str(error))
    for shard, end in sorted(ends.items()):
        file = folder / shard
        size = file.stat().st_size if file.is_file() else -1
        if size < end:
            found = "not found" if size < 0 else f"has {size} bytes of at least {end}"
            problems.append(f"{file}: {found}. {remedy}")
    return 1 + len(ends), problems


def _models(project: Project) -> tuple[int, list[str]]:
    from clipbert.model.weights.checksums import damaged_files

    count, problems = 0, []
    for folder in _folders(project.artifacts / "models"):
        count += sum(1 for path in folder.rglob("*") if path.is_file())
        remedy = (
            f"Restore the model: dvc checkout {folder}, or train again: clipbert train {folder.name}. "
            f"To accept the folder as it is: clipbert checksum {folder}"
        )
        problems += [f"{problem}. {remedy}" for problem in damaged_files(folder)]
    return count, problems


def _parts(project: Project) -> tuple[int, list[str]]:
    from clipbert.model.weights.checksums import damaged_files
    from clipbert.pretrained.folder import MODELS, SOURCE

    count, problems = 0, []
    for folder in _folders(project.root / MODELS):
        if (folder / SOURCE).is_file():  # others are not ours
            count += sum(1 for path in folder.iterdir() if path.is_file())
            remedy = f"Restore it: dvc checkout {MODELS}, or clipbert pretrained get NAME --out {folder} --force"
            problems += [f"{problem}. {remedy}" for problem in damaged_files(folder)]
    return count, problems


def _history(project: Project) -> tuple[int, list[str]]:
    count, problems = 0, list[str]()
    for folder in _folders(project.artifacts / "history"):
        remedy = f"Restore it: dvc checkout {folder}, or train again: clipbert train {folder.name}"
        found, wrong = _listed(folder, remedy, required=False)
        count, problems = count + found, problems + wrong
    return count, problems


def _checkpoints(project: Project) -> tuple[int, list[str]]:
    from clipbert.files.atomic import changed_files
    from clipbert.training.checkpoint import SUMS

    count, problems = 0, list[str]()
    for sums in sorted(project.artifacts.glob(f"checkpoints/*/*/{SUMS}")):
        count += 1
        remedy = f"Remove {sums.parent}; the training resumes from the checkpoint before it"
        try:
            changed = [str(path) for path, _, _ in changed_files(sums)]
        except (OSError, ValueError):
            changed = [str(sums)]
        problems += [f"{path}: damaged. {remedy}" for path in changed]
    return count, problems


def _evaluations(project: Project) -> tuple[int, list[str]]:
    from clipbert.evaluation.predictions_file import check_metrics, read_predictions_file

    count, problems = 0, []
    for path in sorted((project.artifacts / "predictions").glob("*.parquet")):
        count += 1
        try:
            _, stored = read_predictions_file(path)
            metrics = project.metrics(path.stem)
            if metrics.is_file():
                count += 1
                check_metrics(metrics, _json(metrics, f"Rerun: clipbert evaluate {path.stem}"), stored)
        except ClipBertError as error:
            problems.append(str(error))
    return count, problems


def _descriptions(project: Project) -> tuple[int, list[str]]:
    """Check the JSON files that describe runs and registered versions."""
    count, problems = 0, []
    for folder, stage in (("runs", "train"), ("releases", "register")):
        for path in sorted((project.artifacts / folder).glob("*.json")):
            count += 1
            try:
                remedy = f"Restore it: dvc checkout {path}, or rerun: clipbert {stage} {path.stem}"
                read_signed_json(path, remedy)
            except ClipBertError as error:
                problems.append(str(error))
    return count, problems


def _listed(folder: Path, remedy: str, required: bool) -> tuple[int, list[str]]:
    """Return the number of files in a folder's checksums, and the problems with them."""
    if not required and not (folder / CHECKSUMS).is_file():
        return 0, []
    try:
        listed = read_checksums(folder)
    except DamagedError as error:
        return 1, [f"{error}. {remedy}"]
    problems = (problem_of(folder / name, digest) for name, digest in listed.items())
    return 1 + len(listed), [f"{problem}. {remedy}" for problem in problems if problem is not None]


def _json(path: Path, remedy: str) -> dict[str, float]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ClipBertError(f"{path}: cannot be read ({error}). {remedy}") from error
    if not isinstance(found, dict):
        raise ClipBertError(f"{path}: expected a JSON object, found {type(found).__name__}. {remedy}")
    return found


def _folders(parent: Path) -> list[Path]:
    return [path for path in sorted(parent.glob("*")) if path.is_dir() and not path.name.startswith(".")]
