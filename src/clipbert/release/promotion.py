"""Promotion and rollback of registered models.

Three aliases say which version is in use: `candidate` (the last one registered), `champion` (in use) and `previous`
(the champion before). Every decision is a row of the ledger (`clipbert.release.ledger`). Alias changes are transactions
(`clipbert.release.alias_transaction`). Version tags and artifacts/promotions/TASK.json are copies of the ledger
(`clipbert.release.derived`).
"""

from pathlib import Path

from clipbert.config.schema import ReleaseParams
from clipbert.errors import ClipBertError
from clipbert.release.alias_transaction import change, record
from clipbert.release.aliases import CANDIDATE, CHAMPION, PREVIOUS, Position, aliases
from clipbert.release.decisions import Decision
from clipbert.release.derived import block, decision_path
from clipbert.release.gate import EvaluateChampion, decide
from clipbert.release.session import publish_decision, release_session
from clipbert.release.store import DEFAULT_NAME, open_store, store_errors

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
    """Make the candidate the champion when it is better on the same test items, and say why not otherwise.

    Better: the paired bootstrap's interval of the mean score difference lies above `params.min_gain`; without a
    champion, above the strongest trivial baseline. Fewer than 20 items decide nothing.

    Promotions, rollbacks and registrations of a task on this machine wait for each other. A change that was
    interrupted earlier is completed or undone first.

    Args:
        root: the project's folder.
        evaluate_champion: evaluates the champion again when it was not evaluated as the candidate was.
        reconsider: promote a model that was rolled back, too.
        reevaluate: evaluate the champion again in any case.

    Raises:
        ClipBertError: no candidate, predictions that are missing or damaged, aliases that changed meanwhile, or a
            failure of store, ledger or disk; the message says which version is the champion.
    """
    store = open_store(root, params.name)
    name = store.model_name(task)
    with release_session(store, task, name) as session, store_errors(store.uri, f"cannot promote {name}"):
        before = aliases(store, name)
        if CANDIDATE not in before:
            raise ClipBertError(
                f"{name}: no version has the alias {CANDIDATE} in {store.shown}. Register one first: "
                f"`clipbert register {task}`."
            )
        candidate = store.client.get_model_version(name, before[CANDIDATE])
        champion = store.client.get_model_version(name, before[CHAMPION]) if CHAMPION in before else None
        digest = candidate.tags.get("digest", "")
        blocked = None if reconsider else block(session.ledger.entries(task), digest, candidate.tags)
        decision = decide(store, task, candidate, champion, params, seed, evaluate_champion, blocked, reevaluate)
        if decision.decision == "unchanged":
            return decision
        state = f"the champion is {'none' if decision.champion is None else f'version {decision.champion}'}"
        if decision.decision == "rejected":
            record(session.ledger, store, decision)
            publish_decision(session, f"version {decision.version} was rejected; {state}")
            return decision
        if aliases(store, name) != before:
            raise ClipBertError(
                f"{name}: its aliases changed while the models were compared; nothing was changed. Promote again."
            )
        held: Position = {alias: before.get(alias) for alias in (CHAMPION, PREVIOUS)}
        wanted: Position = {CHAMPION: decision.version, PREVIOUS: held[CHAMPION] or held[PREVIOUS]}
        change(session.ledger, store, decision, held, wanted)
        publish_decision(session, f"{state} now")
        return decision


def rollback(root: Path, task: str, release_name: str = DEFAULT_NAME) -> Decision:
    """Give `champion` back to the version that has `previous`, in one step.

    `previous` is then gone, so a second rollback says that there is nothing to go back to instead of bringing back
    the version that was just taken away. The model is not promoted again unless `--reconsider` is given.

    Raises:
        ClipBertError: there is no champion, or none before it; or store, ledger or disk failed.
    """
    store = open_store(root, release_name)
    name = store.model_name(task)
    with release_session(store, task, name) as session, store_errors(store.uri, f"cannot roll back {name}"):
        before = aliases(store, name)
        champion, previous = before.get(CHAMPION), before.get(PREVIOUS)
        if champion is None:
            raise ClipBertError(f"{name}: {store.shown} has no champion. Promote one: `clipbert promote {task}`.")
        if previous is None or previous == champion:
            raise ClipBertError(
                f"{name}: version {champion} is the champion and there is no version before it to go back to."
            )
        digest = store.client.get_model_version(name, champion).tags.get("digest", "")
        reason = f"version {champion} was taken back; version {previous} is the champion again"
        decision = Decision(task, name, "rolled_back", reason, champion, previous, previous, digest)
        held: Position = {CHAMPION: champion, PREVIOUS: previous}
        wanted: Position = {CHAMPION: previous, PREVIOUS: None}
        change(session.ledger, store, decision, held, wanted)
        publish_decision(session, f"version {previous} is the champion again")
        return decision
