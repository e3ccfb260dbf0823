"""Evaluation of registered versions on today's test items, so that old and new versions have comparable metrics."""

import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from clipbert.console import console
from clipbert.errors import ClipBertError
from clipbert.evaluation.comparison.source import Source
from clipbert.evaluation.conditions import ATTRIBUTE, from_tags
from clipbert.evaluation.item_checks import read_predictions
from clipbert.evaluation.predictions_file import write_predictions
from clipbert.files.atomic import write_json
from clipbert.project import Project
from clipbert.release.aliases import aliases
from clipbert.release.connection import open_store
from clipbert.release.provenance import data_digest
from clipbert.release.registry import download_model
from clipbert.release.store import Store, store_errors

# Evaluates a model folder on the present test items with the recorded conditions; returns (items, metrics).
Evaluate = Callable[[Path, Mapping[str, Any]], tuple[pd.DataFrame, dict[str, float]]]


@dataclass(frozen=True)
class Backfilled:
    """Version with its metrics on today's test items: the content of artifacts/backfill/TASK/VERSION.json.

    Attributes:
        digest: of the model's files.
        data: digest of the data.
        metrics: as in artifacts/metrics/TASK.json; empty if it could not be evaluated.
        problem: why it could not be evaluated.
    """

    version: str
    digest: str
    data: str
    metrics: dict[str, float]
    items: int = 0
    problem: str | None = None


def backfill(
    root: Path,
    task: str,
    release_name: str,
    evaluate: Evaluate,
    out: Path,
    versions: Sequence[str] = (),
    again: bool = False,
) -> tuple[list[Backfilled], dict[str, list[str]]]:
    """Evaluate versions that were not evaluated on today's data, the newest first.

    A version that cannot be evaluated is reported and does not stop the others. Each result is written when it is
    known, so that an interrupted command continues where it was.

    Args:
        out: the folder for VERSION.json and VERSION.parquet.
        versions: numbers; empty: all versions.
        again: evaluate also versions that were evaluated on today's data.

    Returns:
        The versions, the newest first, and the aliases of each.

    Raises:
        ClipBertError: the version does not exist, or the store cannot be used.
    """
    store = open_store(root, release_name)
    name = store.model_name(task)
    with store_errors(store.uri, "cannot be read"):
        found = {str(some.version): some for some in store.client.search_model_versions(f"name = '{name}'")}
        named: dict[str, list[str]] = {}
        for alias, version in aliases(store, name).items():
            named.setdefault(version, []).append(alias)
    wanted = _wanted(store, task, found, versions)
    today = data_digest(root) or ""
    results = []
    for version in wanted:
        path, digest = out / f"{version}.json", found[version].tags.get("digest", "")
        result = None if again else _read(path, digest, today)
        if result is None:
            console.print(f"Evaluating {name} version {version}")
            result = _evaluate(store, task, found[version], digest, today, evaluate, out)
            write_json(path, asdict(result), sort_keys=False)
        results.append(result)
    return results, named


def on_todays_data(project: Project, sources: Sequence[Source], versions: Sequence[Any]) -> list[Source]:
    """Return models of different test items with the predictions of `backfill` for versions that have some.

    Models of the same test items are returned as they are: they can be compared without today's data.

    Args:
        versions: MLflow's model version of each model; None: it is not a registered version.
    """
    found = list(sources)
    if len({frozenset(source.items.index) for source in sources}) == 1:
        return found
    today = data_digest(project.root) or ""
    for place, (source, version) in enumerate(zip(sources, versions, strict=True)):
        if version is not None:
            path = project.artifacts / "backfill" / source.task / f"{version.version}.json"
            if _read(path, version.tags.get("digest", ""), today) is not None:
                items = read_predictions(path.with_suffix(".parquet"), source.task)
                found[place] = replace(source, items=items, conditions=items.attrs.get(ATTRIBUTE, {}))
    return found


def _wanted(store: Store, task: str, found: Mapping[str, Any], versions: Sequence[str]) -> list[str]:
    name, known = store.model_name(task), sorted(found, key=int, reverse=True)
    if not known:
        raise ClipBertError(f"{name}: no version is registered in {store.display_uri}. Run `clipbert register {task}`.")
    for version in versions:
        if version not in found:
            raise ClipBertError(f"{name} has no version {version!r}; expected one of {', '.join(known)}.")
    return [version for version in known if not versions or version in versions]


def _read(path: Path, digest: str, data: str) -> Backfilled | None:
    """Return an earlier result for the same model and data; None if there is none, or if it failed."""
    try:
        found = Backfilled(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None
    same = (found.digest, found.data) == (digest, data) and data != ""
    return found if same and found.problem is None else None


def _evaluate(
    store: Store, task: str, version: Any, digest: str, data: str, evaluate: Evaluate, out: Path
) -> Backfilled:
    number = str(version.version)
    try:
        with tempfile.TemporaryDirectory() as scratch:
            model = download_model(store, version.name, number, Path(scratch))
            items, metrics = evaluate(model, from_tags(task, version.tags))
    except (ClipBertError, OSError) as error:
        return Backfilled(number, digest, data, {}, problem=str(error))
    rounded = {name: round(value, 4) for name, value in metrics.items()}
    out.mkdir(parents=True, exist_ok=True)
    write_predictions(out / f"{number}.parquet", items, rounded)
    return Backfilled(number, digest, data, rounded, len(items))
