"""Promotion gate: checks a candidate against the policy, with the champion or a trivial baseline on the same items."""

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd
from mlflow.exceptions import MlflowException

from clipbert.config.promotion import TaskPolicy
from clipbert.console import console
from clipbert.errors import ClipBertError
from clipbert.evaluation.comparison.source import SEED
from clipbert.evaluation.conditions import ATTRIBUTE, differences, from_tags
from clipbert.evaluation.item_checks import check_predictions, read_predictions
from clipbert.evaluation.promotion_tests import Difference, compare_scores, compare_seeds, score_metric, score_scale
from clipbert.files.atomic import sha256_file
from clipbert.project import Project
from clipbert.release.decisions import Decision, Outcome
from clipbert.release.lineage_checks import code_check, data_checks, md5_of, seeds_check
from clipbert.release.policy_checks import (
    cost_words,
    difference_words,
    guard_checks,
    headline_rows,
    limit_checks,
    main_check,
    main_difference,
    metric_title,
    p_words,
    size_checks,
)
from clipbert.release.provenance import data_digest
from clipbert.release.recorded_cost import cost_of_run
from clipbert.release.registry import download_model, predictions_path
from clipbert.release.revisions import SHORT
from clipbert.release.seed_group import seed_group
from clipbert.release.store import Store
from clipbert.release.verdict import Check, Model, Verdict
from clipbert.tasks import task_class

PREDICTIONS_SHA256 = "evaluation.predictions"
METRIC = "metric."  # prefix of the tags with a version's test metrics

# Evaluates a model folder on the present test items with the recorded conditions of another evaluation.
EvaluateChampion = Callable[[Path, Mapping[str, Any]], pd.DataFrame]


@dataclass(frozen=True)
class Gate:
    """The policy that a candidate is checked against, and how the comparison is made.

    Attributes:
        policy: of the task.
        policy_sha256: of mlflow/promotion.yaml; empty for a policy from elsewhere.
        seed: of the bootstrap.
        evaluate_champion: evaluates the champion if it was evaluated under other conditions; None: not possible here.
        reevaluate: evaluate the champion even if its stored predictions are comparable.
    """

    policy: TaskPolicy
    policy_sha256: str = ""
    seed: int = 0
    evaluate_champion: EvaluateChampion | None = None
    reevaluate: bool = False


def decide(store: Store, task: str, candidate: Any, champion: Any, gate: Gate, blocked: str | None) -> Decision:
    """Return the gate's decision about a candidate, without changing anything.

    Args:
        candidate: MLflow's model version.
        champion: MLflow's model version; None if there is no champion.
        blocked: the rollback that blocks the candidate, see `derived.rollback_block`.

    Raises:
        ClipBertError: predictions are missing, damaged, or were made by an older version of clipbert; or the policy
            names a metric that the task does not have.
    """
    name, version = candidate.name, str(candidate.version)
    in_use = None if champion is None else str(champion.version)

    def decided(what: Outcome, reason: str, against: str | None = in_use, **numbers: Any) -> Decision:
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

    items, recorded, md5 = _candidate(store, task, candidate)
    policy, seed = gate.policy, gate.seed
    other: pd.DataFrame | None = None
    run = store.client.get_run(candidate.run_id)
    champion_run = None if champion is None else store.client.get_run(champion.run_id)
    seeds: list[str] = []
    if champion is None:
        scores, against = _strongest_baseline(task, name, version, items)
        words = f"the strongest trivial baseline ({against}, mean {scores.mean():.4f})"
        main = _compared(
            task, lambda: compare_scores(task, items, scores, policy.bootstrap_samples, seed, policy.confidence)
        )
    else:
        other = _champion_items(store, task, candidate, champion, items, recorded, gate)
        against, words = str(in_use), f"version {in_use}"
        main = _compared(task, lambda: main_difference(task, policy, items, other, seed))
    if policy.min_seeds > 1:
        group = seed_group(store, task, run, items, recorded)
        seeds = list(group)
        if other is not None and champion_run is not None:
            champions = seed_group(store, task, champion_run, other, recorded)
            if min(len(group), len(champions)) > 1:
                tables = list(group.values()), list(champions.values())
                main = compare_seeds(task, main.metric, *tables, policy.bootstrap_samples, seed, policy.confidence)

    project, cost = Project(store.root), cost_of_run(run, task)
    champion_cost = None if champion_run is None else cost_of_run(champion_run, task)
    checks = [
        main_check(task, policy, main, champion is None),
        *guard_checks(task, policy, items, other, seed),
        *size_checks(policy, items),
        *limit_checks(policy.limits, cost, champion_cost),
        *filter(None, [seeds_check(policy, seeds), code_check(project, task, policy, run.data.tags, md5)]),
        *data_checks(project, policy, candidate.tags),
    ]
    verdict = Verdict(
        against=words,
        candidate=_model(candidate, run, cost),
        champion=None if champion is None else _model(champion, champion_run, champion_cost or {}),
        headlines=headline_rows(
            task, policy, [_metrics(task, one) for one in (candidate, champion)], items, other, seed, main
        ),
        checks=checks,
        policy=policy.model_dump(),
        policy_sha256=gate.policy_sha256,
        confidence=f"{100 * policy.confidence:.4g} %",
    )
    finding = (
        f"version {version} differs from {words} by "
        f"{difference_words(task, main, policy.confidence, metric_title(task, main.metric))}, {main.test} "
        f"{p_words(main.p_value)}"
    )
    facts = {**_numbers(task, main, items), "metric": main.metric, "verdict": verdict.to_json(), "against": against}
    if verdict.passed:
        return decided("promoted", finding, **facts)
    return decided("rejected", f"{finding}: {_failures(verdict.failed)}", **facts)


def _failures(failed: list[Check]) -> str:
    """Return in words why a candidate is rejected."""
    parts = []
    for check in failed:
        if check.name == "main_metric":
            parts.append(check.required)
        elif check.name.startswith("test_"):
            parts.append(check.found.partition(": ")[2])
        else:
            remedy = f". {check.remedy}" if check.remedy else ""
            parts.append(f"{check.title}: {check.found}; required: {check.required}{remedy}")
    return "; ".join(parts)


def _numbers(task: str, main: Difference, items: pd.DataFrame) -> dict[str, Any]:
    """Return the numbers of the main metric for a decision; of the mean score as scores from 0 to 1."""
    scale = score_scale(task) if main.metric == score_metric(task) else 1.0
    values = {"mean_difference": main.difference, "low": main.low, "high": main.high}
    scaled = {name: value / scale for name, value in values.items()}
    return {
        "items": main.items,
        "mean_score": float(items["score"].mean()),
        "p_value": main.p_value,
        **{name: value if value == value else None for name, value in scaled.items()},  # NaN: no interval
    }


def _model(version: Any, run: Any, cost: Mapping[str, float]) -> Model:
    """Return what the verdict says of a registered version."""
    tags, params = run.data.tags, run.data.params
    registered = datetime.fromtimestamp(version.creation_timestamp / 1000, UTC)
    facts = {
        "registered": registered.strftime("%Y-%m-%d %H:%M UTC"),
        "training": str(run.info.run_name or version.run_id),
        "commit": tags.get("clipbert.git_commit", "none")[:SHORT],
        "data": version.tags.get("data_digest", "none")[:12],
        "seed": params.get(SEED, "not recorded"),
        "time per item": cost_words("ms_per_item", cost.get("ms_per_item")),
        "parameters": cost_words("parameters", cost.get("parameters")),
        "size": cost_words("model_mb", cost.get("model_mb")),
    }
    predictions = version.tags.get(PREDICTIONS_SHA256, "")
    return Model(str(version.version), str(version.run_id), str(run.info.experiment_id), predictions, facts)


def _metrics(task: str, version: Any) -> dict[str, float]:
    """Return the test metrics of a version, by their names after `TASK/`; empty for None."""
    if version is None:
        return {}
    prefix = f"{METRIC}{task}/"
    return {key.removeprefix(prefix): float(value) for key, value in version.tags.items() if key.startswith(prefix)}


def _compared(task: str, compare: Callable[[], Difference]) -> Difference:
    try:
        return compare()
    except ValueError as error:
        raise ClipBertError(
            f"The predictions cannot be compared: {error}. Evaluate and register the model again: "
            f"`clipbert evaluate {task}`, then `clipbert register {task}`."
        ) from error


def _candidate(store: Store, task: str, candidate: Any) -> tuple[pd.DataFrame, dict[str, Any], str]:
    """Return the candidate's test items, the conditions of their evaluation, and the MD5 of their file."""
    title = f"{candidate.name} version {candidate.version}"
    stored = stored_predictions_file(store, task, candidate)
    if isinstance(stored, str):
        raise ClipBertError(f"{title}: {stored}. Register it again: `clipbert register {task}`.")
    recorded = from_tags(task, candidate.tags)
    if not recorded:
        raise ClipBertError(
            f"{title}: its predictions were made by an older version of clipbert, without a record of the settings. "
            f"Evaluate and register it again: `clipbert evaluate {task}`, then `clipbert register {task}`."
        )
    items, md5 = stored
    return items, recorded, md5


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


def _champion_items(
    store: Store,
    task: str,
    candidate: Any,
    champion: Any,
    items: pd.DataFrame,
    recorded: Mapping[str, Any],
    gate: Gate,
) -> pd.DataFrame:
    """Return the champion's predictions of the candidate's test items, in their order."""
    version = str(champion.version)
    if not gate.reevaluate:
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
            return stored.loc[items.index]
    if gate.evaluate_champion is None:
        raise ClipBertError(
            f"{champion.name}: the champion, version {version}, was evaluated under other conditions than the "
            f"candidate and cannot be evaluated again here. Promote with `clipbert promote {task}`."
        )
    console.print(f"Evaluating the champion, version {version}, under the candidate's conditions")
    with tempfile.TemporaryDirectory() as scratch:
        found = gate.evaluate_champion(download_model(store, champion.name, version, Path(scratch)), recorded)
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
    return again.loc[items.index]


def stored_predictions(store: Store, task: str, version: Any) -> pd.DataFrame | str:
    """Return the predictions that were registered with a version, or the reason why they cannot be used."""
    found = stored_predictions_file(store, task, version)
    return found if isinstance(found, str) else found[0]


def stored_predictions_file(store: Store, task: str, version: Any) -> tuple[pd.DataFrame, str] | str:
    """Return the predictions of a version and the MD5 of their file, or the reason why they cannot be used."""
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
        return read_predictions(path, task), md5_of(path)
