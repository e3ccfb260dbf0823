"""Which version is in use: the gate a candidate has to pass, and the way back.

Three aliases say it: `candidate` (the last one registered), `champion` (in use), `previous` (the champion before). Each
decision is written to the tags of the version it is about and to artifacts/promotions/TASK.json; the file holds the
last decision of the task, the tags the last one of each version.
"""

import contextlib
import fcntl
import platform
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import pandas as pd
from mlflow.exceptions import MlflowException

from clipbert.console import console
from clipbert.errors import ClipBertError
from clipbert.evaluate.compare import Comparison, paired_bootstrap
from clipbert.files import write_errors, write_json
from clipbert.params import ReleaseParams
from clipbert.release.ownership import own_model
from clipbert.release.provenance import user_name
from clipbert.release.registry import (
    CANDIDATE,
    aliases,
    check_predictions,
    download_model,
    predictions_path,
    read_predictions,
)
from clipbert.release.store import DEFAULT_NAME, Store, open_store, store_errors

CHAMPION = "champion"
PREVIOUS = "previous"
CHANCE = "chance"
PREFIX = "promotion."
FEWEST_ITEMS = 20

EvaluateChampion = Callable[[Path], pd.DataFrame]


@dataclass(frozen=True)
class Decision:
    """What was decided about a version, against what, and the numbers behind it (scores from 0 to 1)."""

    task: str
    name: str
    decision: Literal["promoted", "rejected", "unchanged", "rolled_back"]
    reason: str
    version: str  # the candidate; after a rollback the version that was taken back
    champion: str | None  # the version in use from now on
    against: str | None  # the version compared with, or "chance"
    at: str
    by: str
    items: int | None = None
    mean_score: float | None = None
    mean_difference: float | None = None
    low: float | None = None
    high: float | None = None
    p_value: float | None = None


def promote(
    root: Path,
    task: str,
    params: ReleaseParams,
    seed: int = 0,
    evaluate_champion: EvaluateChampion | None = None,
    reconsider: bool = False,
) -> Decision:
    """Make the candidate the champion when it is better on the same test items, and say no with the reason otherwise.

    Better: the paired bootstrap's interval of the mean score difference lies above `params.min_gain`; without a
    champion, above chance. Fewer than 20 items decide nothing. When the champion was evaluated on other data or with
    other settings, `evaluate_champion(model_dir)` evaluates it again on the candidate's items. A version that was
    rolled back is not promoted again unless `reconsider`.

    Promotions and rollbacks of a task on this machine wait for each other.

    Raises:
        ClipBertError: no candidate, no predictions to compare, the champion changed meanwhile, or the store fails.
    """
    store = open_store(root, params.name)
    name = store.model_name(task)
    with _one_at_a_time(root, task), store_errors(store.uri, f"cannot promote {name}"):
        own_model(store, name)
        before = aliases(store, name)
        if CANDIDATE not in before:
            raise ClipBertError(
                f"{name}: no version has the alias {CANDIDATE} in {store.shown}. Register one first: "
                f"`clipbert register {task}`."
            )
        candidate = store.client.get_model_version(name, before[CANDIDATE])
        champion = store.client.get_model_version(name, before[CHAMPION]) if CHAMPION in before else None
        decision = _decide(store, task, candidate, champion, params, seed, evaluate_champion, reconsider)
        if decision.decision == "promoted":
            if aliases(store, name) != before:
                raise ClipBertError(
                    f"{name}: its aliases changed while the models were compared; nothing was changed. Promote again."
                )
            # In this order a crash between the two leaves a champion that is its own predecessor, never a wrong one.
            if champion is not None:
                store.client.set_registered_model_alias(name, PREVIOUS, champion.version)
            store.client.set_registered_model_alias(name, CHAMPION, candidate.version)
        if decision.decision != "unchanged":
            _record(store, decision)
    return decision


def rollback(root: Path, task: str, release_name: str = DEFAULT_NAME) -> Decision:
    """Give `champion` back to the version that has `previous`, in one step.

    `previous` is then gone, so a second rollback says that there is nothing to go back to instead of bringing back
    the version that was just taken away.

    Raises:
        ClipBertError: there is no champion, or none before it; or the store fails.
    """
    store = open_store(root, release_name)
    name = store.model_name(task)
    with _one_at_a_time(root, task), store_errors(store.uri, f"cannot roll back {name}"):
        own_model(store, name)
        before = aliases(store, name)
        champion, previous = before.get(CHAMPION), before.get(PREVIOUS)
        if champion is None:
            raise ClipBertError(f"{name}: {store.shown} has no champion. Promote one: `clipbert promote {task}`.")
        if previous is None or previous == champion:
            raise ClipBertError(
                f"{name}: version {champion} is the champion and there is no version before it to go back to."
            )
        store.client.set_registered_model_alias(name, CHAMPION, previous)
        store.client.delete_registered_model_alias(name, PREVIOUS)
        reason = f"version {champion} was taken back; version {previous} is the champion again"
        decision = Decision(task, name, "rolled_back", reason, champion, previous, previous, _now(), _who())
        _record(store, decision)
    return decision


def decision_path(root: Path, task: str) -> Path:
    """The file with the last decision of a task."""
    return root / "artifacts" / "promotions" / f"{task}.json"


def _decide(
    store: Store,
    task: str,
    candidate: Any,
    champion: Any,
    params: ReleaseParams,
    seed: int,
    evaluate_champion: EvaluateChampion | None,
    reconsider: bool,
) -> Decision:
    name, version = candidate.name, str(candidate.version)
    in_use = None if champion is None else str(champion.version)
    against = CHANCE if in_use is None else f"version {in_use}"

    def decided(what: Literal["promoted", "rejected", "unchanged"], reason: str, **numbers: Any) -> Decision:
        now = version if what == "promoted" else in_use
        compared = in_use or CHANCE
        return Decision(task, name, what, reason, version, now, compared, _now(), _who(), **numbers)

    if version == in_use:
        return decided("unchanged", f"version {version} is the champion already")
    if candidate.tags.get(f"{PREFIX}decision") == "rolled_back" and not reconsider:
        when, who = candidate.tags.get(f"{PREFIX}at"), candidate.tags.get(f"{PREFIX}by")
        return decided("rejected", f"version {version} was rolled back on {when} by {who}; train another one")

    items = _stored_predictions(store, task, candidate)
    if items is None:
        raise ClipBertError(
            f"{name}: the predictions of version {version} are not in {store.shown}. Register it again: "
            f"`clipbert register {task}`."
        )
    if champion is None:
        other = items["chance"]
    else:
        other = _champion_scores(store, task, candidate, champion, items, evaluate_champion)
    comparison = _compare(items["score"], other, params, seed)
    numbers = {**asdict(comparison), "mean_score": float(items["score"].mean())}
    gain = params.min_gain if champion is not None else 0.0
    interval = (
        f"by {comparison.mean_difference:+.4f} on {comparison.items} test items, {params.confidence:.0%} interval "
        f"{comparison.low:+.4f} to {comparison.high:+.4f}, p = {comparison.p_value:.2g}"
    )
    finding = f"version {version} differs from {against} {interval}"
    if comparison.items < FEWEST_ITEMS:
        return decided("rejected", f"{finding}: fewer than {FEWEST_ITEMS} items are too few to tell", **numbers)
    if comparison.low <= gain:
        return decided("rejected", f"{finding}: the interval has to lie above {gain:g}", **numbers)
    return decided("promoted", finding, **numbers)


def _compare(scores: pd.Series, other: pd.Series, params: ReleaseParams, seed: int) -> Comparison:
    try:
        return paired_bootstrap(
            scores.to_numpy(), other.to_numpy(), params.bootstrap_samples, seed=seed, confidence=params.confidence
        )
    except ValueError as error:
        raise ClipBertError(f"The predictions cannot be compared: {error}. Evaluate the model again.") from error


def _champion_scores(
    store: Store,
    task: str,
    candidate: Any,
    champion: Any,
    items: pd.DataFrame,
    evaluate_champion: EvaluateChampion | None,
) -> pd.Series:
    """The champion's scores on the candidate's test items, in their order."""
    stored = _stored_predictions(store, task, champion)
    conditions = ("evaluation.clips", "evaluation.data_digest")
    same = all(candidate.tags.get(key) == champion.tags.get(key) for key in conditions)
    if same and stored is not None and set(stored.index) == set(items.index):
        return stored.loc[items.index, "score"]
    version = str(champion.version)
    if evaluate_champion is None:
        raise ClipBertError(
            f"{champion.name}: the champion, version {version}, was not evaluated on the candidate's test items, and "
            f"there is no way to evaluate it here. Promote with `clipbert promote {task}`."
        )
    console.print(f"Evaluating the champion, version {version}, on the candidate's test items", markup=False)
    with tempfile.TemporaryDirectory() as scratch:
        found = evaluate_champion(download_model(store, champion.name, version, Path(scratch)))
    again = check_predictions(found, f"the champion, version {version}")
    if set(again.index) != set(items.index):
        raise ClipBertError(
            f"{candidate.name}: the candidate, version {candidate.version}, was evaluated on {len(items)} test items "
            f"that are not today's {len(again)}. Bring it up to date: `dvc repro register@{task}`."
        )
    return again.loc[items.index, "score"]


def _stored_predictions(store: Store, task: str, version: Any) -> pd.DataFrame | None:
    with tempfile.TemporaryDirectory() as scratch:
        try:
            path = store.client.download_artifacts(
                version.run_id, predictions_path(task, version.tags.get("digest", "")), scratch
            )
        except (MlflowException, OSError):
            return None
        return read_predictions(Path(path))


def _record(store: Store, decision: Decision) -> None:
    """The decision as tags of its version, where a rollback leaves the promotion's numbers, and as the task's file."""
    facts = {"decision": decision.decision, "reason": decision.reason, "at": decision.at, "by": decision.by}
    if decision.decision != "rolled_back":
        names = ("against", "items", "mean_difference", "low", "high", "p_value")
        facts |= {name: str(value) for name in names if (value := getattr(decision, name)) is not None}
    for key, value in facts.items():
        store.client.set_model_version_tag(decision.name, decision.version, f"{PREFIX}{key}", value)
    write_json(decision_path(store.root, decision.task), asdict(decision))


@contextlib.contextmanager
def _one_at_a_time(root: Path, task: str) -> Iterator[None]:
    path = root / "mlflow" / f".promote-{task}.lock"
    with write_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = path.open("w")
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            console.print(f"Waiting for another promotion or rollback of {task}", markup=False)
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _who() -> str:
    return f"{user_name()}@{platform.node()}"
