"""Promotion and rollback of registered models.

Three aliases say which version is in use: `candidate` (the last one registered), `champion` (in use) and `previous`
(the champion before). Every decision is a row of the ledger (`clipbert.release.ledger`). Alias changes are transactions
(`clipbert.release.alias_transaction`). Version tags and artifacts/promotions/TASK.json are copies of the ledger
(`clipbert.release.derived`).
"""

from pathlib import Path

from clipbert.config.schema import ReleaseParams
from clipbert.errors import ClipBertError
from clipbert.release.alias_transaction import change_aliases, record_decision
from clipbert.release.aliases import CANDIDATE, CHAMPION, PREVIOUS, AliasState, aliases
from clipbert.release.connection import open_store
from clipbert.release.decisions import Decision
from clipbert.release.derived import decision_path, rollback_block
from clipbert.release.gate import EvaluateChampion, decide
from clipbert.release.session import publish_decision, release_session
from clipbert.release.store import DEFAULT_NAME, store_errors

__all__ = ["Decision", "decision_path", "promote", "rollback"]


def promote(
    root: Path,
    task: str,
    params: ReleaseParams,
    seed: int = 0,
    evaluate_champion: EvaluateChampion | None = None,
    reconsider: bool = False,
    reevaluate: bool = False,
) -> Decision:
    """Make the candidate the champion if it is better on the same test items; return the decision and its reason.

    The candidate is better if the paired bootstrap's interval of the mean score difference lies above
    `params.min_gain`. Without a champion it must lie above the strongest trivial baseline. Fewer than 20 items reject.

    Promotions, rollbacks and registrations of a task on this machine wait for each other. A change that was
    interrupted earlier is completed or undone first.

    Args:
        root: the project's folder.
        task: the task.
        params: the section `release`.
        seed: of the bootstrap.
        evaluate_champion: evaluates the champion under the candidate's conditions if it was evaluated under others.
        reconsider: allow a model that was rolled back.
        reevaluate: evaluate the champion again in any case.

    Raises:
        ClipBertError: there is no candidate, predictions are missing or damaged, the aliases changed meanwhile, or
            store, ledger or disk failed; the message says which version is the champion.
    """
    store = open_store(root, params.name)
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
        digest = candidate.tags.get("digest", "")
        blocked = None if reconsider else rollback_block(session.ledger.entries(task), digest, candidate.tags)
        decision = decide(store, task, candidate, champion, params, seed, evaluate_champion, blocked, reevaluate)
        if decision.decision == "unchanged":
            return decision
        state = f"the champion is {'none' if decision.champion is None else f'version {decision.champion}'}"
        if decision.decision == "rejected":
            record_decision(session.ledger, store, decision)
            publish_decision(session, f"version {decision.version} was rejected; {state}")
            return decision
        if aliases(store, name) != before:
            raise ClipBertError(
                f"{name}: its aliases changed while the models were compared; nothing was changed. Promote again."
            )
        present: AliasState = {alias: before.get(alias) for alias in (CHAMPION, PREVIOUS)}
        wanted: AliasState = {CHAMPION: decision.version, PREVIOUS: present[CHAMPION] or present[PREVIOUS]}
        change_aliases(session.ledger, store, decision, present, wanted)
        publish_decision(session, f"{state} now")
        return decision


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
