"""Results of the finished points of a study, kept in its folder, from which a stopped study continues."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clipbert.errors import ClipBertError
from clipbert.files.signed_json import read_signed_json, write_signed_json
from clipbert.project import Project

RECORD, VALIDATION, EVALUATIONS = "point.json", "validation", "evaluations.json"


@dataclass(frozen=True)
class Evaluated:
    """One evaluation of a point's model on the validation split.

    Attributes:
        own: whether `aggregation` is the one that the model was trained with.
        training_clips: clips of a video in a training step.
        file: the predictions, below the point's folder.
    """

    clips: int
    aggregation: str
    own: bool
    training_clips: int
    ms_per_item: float
    file: str
    metrics: dict[str, float]


@dataclass(frozen=True)
class Record:
    """Result of a finished point.

    Attributes:
        fingerprint: of what decides the result.
        cost: of the training, by the names of `training_cost`.
        test: metrics of the test split.
        wall_s: seconds from the start of the training to the last evaluation.
    """

    name: str
    fingerprint: str
    commit: str
    run_id: str | None
    cost: dict[str, float]
    test: dict[str, float]
    wall_s: float
    evaluations: tuple[Evaluated, ...]


def read_record(folder: Path, fingerprint: str) -> Record | None:
    """Return the record of a point; None if the point is not finished, or was with other parameters, code or data."""
    if not (folder / RECORD).is_file():
        return None
    try:
        values = read_signed_json(folder / RECORD, "")
        values["evaluations"] = tuple(Evaluated(**one) for one in values["evaluations"])
        record = Record(**values)
    except (ClipBertError, TypeError, KeyError):
        return None  # damaged or of another version: the point runs again
    files_there = all((folder / one.file).is_file() for one in record.evaluations)
    return record if record.fingerprint == fingerprint and files_there else None


def write_record(folder: Path, workspace: Path, task: str, known: Mapping[str, Any]) -> Record:
    """Write and return the record of a point from the files in its workspace and its evaluations.

    Args:
        known: name, fingerprint, commit and wall_s.
    """
    outputs = Project(workspace)
    training, run = _json(outputs.training_metrics(task)), _json(outputs.run(task))
    prefix = f"{task}_cost/"
    values = {
        **known,
        "run_id": run.get("run_id"),
        "cost": {name.removeprefix(prefix): value for name, value in training.items() if name.startswith(prefix)},
        "test": _json(outputs.metrics(task)),
        "evaluations": _json(folder / VALIDATION / EVALUATIONS)["evaluations"],
    }
    write_signed_json(folder / RECORD, values)
    values["evaluations"] = tuple(Evaluated(**one) for one in values["evaluations"])
    return Record(**values)


def _json(path: Path) -> dict[str, Any]:
    found = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    assert isinstance(found, dict), path
    return found
