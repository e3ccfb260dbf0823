"""Promotion gate: compares a candidate with the champion or a trivial baseline on the same test items."""

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import pandas as pd
from mlflow.exceptions import MlflowException

from clipbert.config.schema import ReleaseParams
from clipbert.console import console
from clipbert.errors import ClipBertError
from clipbert.evaluation.compare import Comparison, paired_bootstrap
from clipbert.evaluation.conditions import ATTRIBUTE, differences, from_tags
from clipbert.evaluation.item_checks import check_predictions, read_predictions
from clipbert.files.atomic import sha256_file
from clipbert.release.decisions import Decision
from clipbert.release.provenance import data_digest
from clipbert.release.registry import download_model, predictions_path
from clipbert.release.store import Store
from clipbert.tasks import task_class

FEWEST_ITEMS = 20
PREDICTIONS_SHA256 = "evaluation.predictions"

# Evaluates a model folder on the present test items with the recorded conditions of another evaluation.
EvaluateChampion = Callable[[Path, Mapping[str, Any]], pd.DataFrame]


def decide(
    store: Store,
    task: str,
    candidate: Any,
    champion: Any,
    params: ReleaseParams,
    seed: int,
    evaluate_champion: EvaluateChampion | None,
    blocked: str | None,
    reevaluate: bool,
) -> Decision:
    """Return the gate's decision about a candidate, without changing anything.

    Args:
        candidate: MLflow's model version.
        champion: MLflow's model version; None if there is no champion.
        blocked: the rollback that blocks the candidate, see `derived.rollback_block`.
        reevaluate: evaluate the champion even if its stored predictions are comparable.

    Raises:
        ClipBertError: predictions are missing, damaged, or were made by an older version of clipbert.
    """
    name, version = candidate.name, str(candidate.version)
    in_use = None if champion is None else str(champion.version)
    against = in_use

    def decided(what: Literal["promoted", "rejected", "unchanged"], reason: str, **numbers: Any) -> Decision:
        now = version if what == "promoted" else in_use
        return Decision(task, name, what, reason, version, now, against, candidate.tags.get("digest", ""), **numbers)

    if version == in_use:
        return decided("unchanged", f"version {version} is the champion already")
    if blocked is not None:
        return decided(
            "rejected",
            f"version {version} was rolled back on {blocked}. Train another model, or promote this one with "
            f"`clipbert promote {task} --reconsider`",
        )

    items, recorded = _candidate(store, task, candidate)
    if champion is None:
        other, against = _strongest_baseline(task, name, version, items)
        words = f"the strongest trivial baseline ({against}, mean {other.mean():.4f})"
    else:
        other = _champion_scores(store, task, candidate, champion, items, recorded, evaluate_champion, reevaluate)
        words = f"version {in_use}"
    comparison = _compare(task, items["score"], other, params, seed)
    numbers = {**asdict(comparison), "mean_score": float(items["score"].mean())}
    gain = params.min_gain if champion is not None else 0.0
    finding = (
        f"version {version} differs from {words} by {comparison.mean_difference:+.4f} on {comparison.items} test "
        f"items, {params.confidence:.0%} interval {comparison.low:+.4f} to {comparison.high:+.4f}, "
        f"p = {comparison.p_value:.2g}"
    )
    if comparison.items < FEWEST_ITEMS:
        return decided(
            "rejected", f"{finding}: fewer than {FEWEST_ITEMS} items are too few to compare models", **numbers
        )
    if comparison.low <= gain:
        return decided("rejected", f"{finding}: the interval must lie above {gain:g}", **numbers)
    return decided("promoted", finding, **numbers)


def _compare(task: str, scores: pd.Series, other: pd.Series, params: ReleaseParams, seed: int) -> Comparison:
    try:
        return paired_bootstrap(
            scores.to_numpy(), other.to_numpy(), params.bootstrap_samples, seed=seed, confidence=params.confidence
        )
    except ValueError as error:
        raise ClipBertError(
            f"The predictions cannot be compared: {error}. Evaluate and register the model again: "
            f"`clipbert evaluate {task}`, then `clipbert register {task}`."
        ) from error


def _candidate(store: Store, task: str, candidate: Any) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Return the candidate's test items and the conditions of their evaluation."""
    title = f"{candidate.name} version {candidate.version}"
    items = stored_predictions(store, task, candidate)
    if isinstance(items, str):
        raise ClipBertError(f"{title}: {items}. Register it again: `clipbert register {task}`.")
    recorded = from_tags(task, candidate.tags)
    if not recorded:
        raise ClipBertError(
            f"{title}: its predictions were made by an older version of clipbert, without a record of the settings. "
            f"Evaluate and register it again: `clipbert evaluate {task}`, then `clipbert register {task}`."
        )
    return items, recorded


def _strongest_baseline(task: str, name: str, version: str, items: pd.DataFrame) -> tuple[pd.Series, str]:
    """Return the scores and the name of the trivial baseline with the highest mean."""
    known = task_class(task).report.all_baselines()
    if missing := [column for column in known if column not in items.columns]:
        raise ClipBertError(
            f"{name} version {version}: the first champion must beat the trivial baselines, but its predictions lack "
            f"the column(s) {', '.join(missing)}: an older version of clipbert made them. Evaluate and register it "
            f"again: `clipbert evaluate {task}`, then `clipbert register {task}`."
        )
    means = {column: items[column].to_numpy(dtype=float).mean() for column in known}
    best = max(known, key=means.__getitem__)
    return items[best], known[best]


def _champion_scores(
    store: Store,
    task: str,
    candidate: Any,
    champion: Any,
    items: pd.DataFrame,
    recorded: Mapping[str, Any],
    evaluate_champion: EvaluateChampion | None,
    reevaluate: bool,
) -> pd.Series:
    """Return the champion's scores on the candidate's test items, in their order."""
    version = str(champion.version)
    if not reevaluate:
        other = differences(task, recorded, from_tags(task, champion.tags))
        if candidate.tags.get("evaluation.data_digest") != champion.tags.get("evaluation.data_digest"):
            other.append("data")
        stored = stored_predictions(store, task, champion)
        if isinstance(stored, str) and "SHA-256" in stored and not other:
            raise ClipBertError(
                f"{champion.name} version {version}, the champion: {stored}. Evaluate it again: "
                f"`clipbert promote {task} --reevaluate`."
            )
        if not other and not isinstance(stored, str) and set(stored.index) == set(items.index):
            return pd.Series(stored.loc[items.index, "score"])
    if evaluate_champion is None:
        raise ClipBertError(
            f"{champion.name}: the champion, version {version}, was evaluated under other conditions than the "
            f"candidate and cannot be evaluated again here. Promote with `clipbert promote {task}`."
        )
    console.print(f"Evaluating the champion, version {version}, under the candidate's conditions")
    with tempfile.TemporaryDirectory() as scratch:
        found = evaluate_champion(download_model(store, champion.name, version, Path(scratch)), recorded)
    again = check_predictions(found, f"the champion, version {version}", task)
    unlike = differences(task, recorded, found.attrs.get(ATTRIBUTE, {}))
    today = data_digest(store.root)
    if (digest := candidate.tags.get("evaluation.data_digest")) != today:
        unlike.append(f"data: {digest}, {today}")
    if unlike or set(again.index) != set(items.index):
        raise ClipBertError(
            f"{candidate.name}: the candidate, version {candidate.version}, cannot be compared: its evaluation and "
            f"the present one differ ({'; '.join(unlike) or 'test items'}). Bring it up to date: "
            f"`clipbert evaluate {task}`, then `clipbert register {task}`."
        )
    return pd.Series(again.loc[items.index, "score"])


def stored_predictions(store: Store, task: str, version: Any) -> pd.DataFrame | str:
    """Return the predictions that were registered with a version, or the reason why they cannot be used."""
    artifact = predictions_path(task, version.tags.get("digest", ""))
    with tempfile.TemporaryDirectory() as scratch:
        try:
            path = Path(store.client.download_artifacts(version.run_id, artifact, scratch))
        except (MlflowException, OSError):
            return f"its predictions, {artifact} of run {version.run_id}, are not in {store.display_uri}"
        found, expected = sha256_file(path), version.tags.get(PREDICTIONS_SHA256)
        if found != expected:
            return (
                f"its predictions, {artifact} of run {version.run_id}, are not those that were registered: their "
                f"SHA-256 is {found[:12]}..., expected {(expected or 'none')[:12]}..."
            )
        return read_predictions(path, task)
