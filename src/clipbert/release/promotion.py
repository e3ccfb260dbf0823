"""Promotion and rollback of registered models.

Three aliases say which version is in use: `candidate` (the last one registered), `champion` (in use) and `previous`
(the champion before). Every decision is a row of the ledger (`clipbert.release.ledger`). Alias changes are transactions
(`clipbert.release.alias_transaction`). Version tags and artifacts/promotions/ are copies of the ledger
(`clipbert.release.derived`).
"""

import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from itertools import takewhile
from pathlib import Path
from typing import Any

from clipbert.config.promotion import TaskPolicy
from clipbert.errors import ClipBertError
from clipbert.project import Project
from clipbert.release.alias_transaction import change_aliases, record_decision, store_identity
from clipbert.release.aliases import CANDIDATE, CHAMPION, PREVIOUS, AliasState, aliases
from clipbert.release.connection import open_store
from clipbert.release.decisions import Approval, Decision, new_id, user_at_host, utc_now
from clipbert.release.derived import decision_path, effective_decisions, rollback_block
from clipbert.release.gate import PREDICTIONS_SHA256, EvaluateChampion, Gate, decide
from clipbert.release.ledger import Entry
from clipbert.release.session import ReleaseSession, print_note, publish_decision, release_session
from clipbert.release.store import DEFAULT_NAME, store_errors

__all__ = ["Approval", "Decision", "decision_path", "promote", "rollback"]

MAX_NOTE = 2000  # characters of a person's name and note together


def promote(
    root: Path,
    task: str,
    policy: TaskPolicy,
    release_name: str = DEFAULT_NAME,
    *,
    seed: int = 0,
    evaluate_champion: EvaluateChampion | None = None,
    reconsider: bool = False,
    reevaluate: bool = False,
    approval: Approval | None = None,
    ask: bool = False,
    policy_sha256: str = "",
) -> Decision:
    """Make the candidate the champion if it passes the policy; return the decision with its reason and verdict.

    Where a person has to approve, a candidate that passes is `pending` and nothing changes. A second call with the
    answer promotes or declines it. An approved candidate is not compared again if neither models, predictions nor
    policy have changed since.

    Promotions, rollbacks and registrations of a task on this machine wait for each other. A change that was
    interrupted earlier is completed or undone first.

    Args:
        root: the project's folder.
        task: the task.
        policy: of the task, from mlflow/promotion.yaml.
        release_name: release.name.
        seed: of the bootstrap.
        evaluate_champion: evaluates the champion under the candidate's conditions if it was evaluated under others.
        reconsider: allow a model that was rolled back.
        reevaluate: evaluate the champion again in any case.
        approval: a person's answer.
        ask: require a person's approval even if the policy does not.
        policy_sha256: of the policy's file, for the record.

    Raises:
        ClipBertError: no version is the candidate, predictions are missing or damaged, the aliases changed meanwhile,
            the person saw another candidate, or store, ledger or disk failed; the message says which version is the
            champion.
    """
    _check_approval(approval)
    store = open_store(root, release_name)
    name = store.model_name(task)
    with release_session(store, task, name) as session, store_errors(store.uri, f"cannot promote {name}"):
        before = aliases(store, name)
        if CANDIDATE not in before:
            raise ClipBertError(
                f"{name}: no version has the alias {CANDIDATE} in {store.display_uri}. Register one first: "
                f"`clipbert register {task}`."
            )
        candidate = store.client.get_model_version(name, before[CANDIDATE])
        champion = store.client.get_model_version(name, before[CHAMPION]) if CHAMPION in before else None
        entries = session.ledger.entries(task)
        blocked = None if reconsider else rollback_block(entries, candidate.tags.get("digest", ""), candidate.tags)
        gate = Gate(policy, policy_sha256, seed, evaluate_champion, reevaluate)
        asked = None if approval is None else approval.pending
        shown = None if blocked else _pending(entries, store_identity(store), candidate, champion, policy, asked)
        if approval is not None and before[CANDIDATE] != before.get(CHAMPION):
            _check_shown(name, task, approval, shown)
        if approval is None or shown is None or before[CANDIDATE] == before.get(CHAMPION):
            decision = decide(store, task, candidate, champion, gate, blocked)
        else:
            decision = shown
        decision = _answered(task, decision, approval, ask or policy.approval == "person")
        return _carry_out(session, decision, before)


def _carry_out(session: ReleaseSession, decision: Decision, before: dict[str, str]) -> Decision:
    """Record a decision, move the aliases if it promotes, and publish it."""
    store, name = session.store, session.name
    if decision.decision == "unchanged":
        return decision
    state = f"the champion is {'none' if decision.champion is None else f'version {decision.champion}'}"
    if decision.decision != "promoted":
        record_decision(session.ledger, store, decision)
        publish_decision(session, f"version {decision.version} is {decision.decision}; {state}")
        _log_page(session, decision)
        return decision
    if aliases(store, name) != before:
        raise ClipBertError(
            f"{name}: its aliases changed while the models were compared; nothing was changed. Promote again."
        )
    present: AliasState = {alias: before.get(alias) for alias in (CHAMPION, PREVIOUS)}
    wanted: AliasState = {CHAMPION: decision.version, PREVIOUS: present[CHAMPION] or present[PREVIOUS]}
    change_aliases(session.ledger, store, decision, present, wanted)
    publish_decision(session, f"{state} now")
    _log_page(session, decision)
    return decision


def _log_page(session: ReleaseSession, decision: Decision) -> None:
    """Store the verdict's page with the run that trained the candidate, as promotion/version-N.html."""
    if decision.verdict is None:
        return
    store, page = session.store, Project(session.store.root).verdict(session.task)
    try:
        with store_errors(store.uri, "cannot store the verdict's page"), tempfile.TemporaryDirectory() as scratch:
            copy = Path(scratch, f"version-{decision.version}.html")
            shutil.copyfile(page, copy)
            store.client.log_artifact(decision.verdict["candidate"]["run_id"], str(copy), "promotion")
    except ClipBertError as error:
        print_note(
            f"version {decision.version} is {decision.decision}, but {page.relative_to(store.root)} is not in MLflow: "
            f"{error}"
        )


def _answered(task: str, decision: Decision, approval: Approval | None, needs_person: bool) -> Decision:
    """Return the decision after a person's answer, or the one that waits for it."""
    if decision.decision not in ("promoted", "pending"):
        return decision
    waiting = f"; it waits for a person: `clipbert promote {task} --approve`, or `--decline`"
    finding = decision.reason.removesuffix(waiting)
    in_use = None if decision.verdict is None else (decision.verdict["champion"] or {}).get("version")
    if approval is None:
        if not needs_person:
            return decision
        return replace(decision, decision="pending", reason=f"{finding}{waiting}", champion=in_use)
    note = f": {approval.note}" if approval.note else ""
    yes = approval.approved
    return replace(
        decision,
        decision="promoted" if yes else "declined",
        reason=f"{finding}; {'approved' if yes else 'declined'} by {approval.by}{note}",
        champion=decision.version if yes else in_use,
        at=utc_now(),
        by=user_at_host(),
        id=new_id(),
        approved_by=approval.by,
        note=approval.note,
    )


def _pending(
    entries: Sequence[Entry], identity: str, candidate: Any, champion: Any, policy: TaskPolicy, asked: str | None
) -> Decision | None:
    """Return the decision that waits for a person if models, predictions and policy are still the same.

    Args:
        asked: its id; a person may answer an earlier form about the same models. None: the last one.
    """
    made = effective_decisions(entries, identity, candidate.name)
    waiting = list(takewhile(lambda decision: decision.decision == "pending", reversed(made)))
    last = next((decision for decision in waiting if asked in (None, decision.id)), None)
    if last is None or last.verdict is None:
        return None
    known = [last.verdict["candidate"], last.verdict["champion"]]
    present = [
        None if version is None else (str(version.version), version.tags.get(PREDICTIONS_SHA256, ""))
        for version in (candidate, champion)
    ]
    seen = [None if model is None else (model["version"], model["predictions"]) for model in known]
    same = seen == present and last.digest == candidate.tags.get("digest", "")
    return last if same and last.verdict["policy"] == policy.model_dump() else None


def _check_shown(name: str, task: str, approval: Approval, shown: Decision | None) -> None:
    """Check that the person answered about the candidate that is there now."""
    if approval.pending is not None and (shown is None or shown.id != approval.pending):
        raise ClipBertError(
            f"{name}: candidate, champion, predictions or policy changed after {approval.by} was asked; nothing was "
            f"changed. Ask again: `clipbert promote {task}`."
        )


def _check_approval(approval: Approval | None) -> None:
    if approval is None:
        return
    if not approval.by.strip():
        raise ClipBertError("--by: expected the name of the person who approves or declines, found none.")
    if len(approval.by) + len(approval.note) > MAX_NOTE:
        raise ClipBertError(f"--note: expected at most {MAX_NOTE} characters of name and note together.")


def rollback(root: Path, task: str, release_name: str = DEFAULT_NAME) -> Decision:
    """Make the previous champion the champion again.

    The alias `previous` is then deleted: a second rollback fails instead of restoring the version that was just rolled
    back. That version is not promoted again without `--reconsider`.

    Raises:
        ClipBertError: there is no champion or no previous one, or store, ledger or disk failed.
    """
    store = open_store(root, release_name)
    name = store.model_name(task)
    with release_session(store, task, name) as session, store_errors(store.uri, f"cannot roll back {name}"):
        before = aliases(store, name)
        champion, previous = before.get(CHAMPION), before.get(PREVIOUS)
        if champion is None:
            raise ClipBertError(f"{name}: {store.display_uri} has no champion. Promote one: `clipbert promote {task}`.")
        if previous is None or previous == champion:
            raise ClipBertError(
                f"{name}: version {champion} is the champion, and there is no previous champion to roll back to."
            )
        digest = store.client.get_model_version(name, champion).tags.get("digest", "")
        reason = f"version {champion} was rolled back; version {previous} is the champion again"
        decision = Decision(task, name, "rolled_back", reason, champion, previous, previous, digest)
        present: AliasState = {CHAMPION: champion, PREVIOUS: previous}
        wanted: AliasState = {CHAMPION: previous, PREVIOUS: None}
        change_aliases(session.ledger, store, decision, present, wanted)
        publish_decision(session, f"version {previous} is the champion again")
        return decision
