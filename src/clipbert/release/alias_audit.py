"""Aliases that were set past the promotion gate, as in MLflow's UI or by its REST API."""

from collections.abc import Iterable
from pathlib import Path

from mlflow.exceptions import MlflowException

from clipbert.release.alias_transaction import store_identity
from clipbert.release.aliases import CHAMPION, PREVIOUS, AliasState, alias_state
from clipbert.release.connection import open_store
from clipbert.release.derived import PREFIX
from clipbert.release.ledger import Entry, Ledger
from clipbert.release.store import DEFAULT_NAME, EMBEDDED, Store, embedded_uri, store_errors, tracking_uri


def aliases_past_gate(root: Path, tasks: Iterable[str], release_name: str = DEFAULT_NAME) -> dict[str, str]:
    """Return a sentence for each task whose champion or previous champion was set past the gate; change nothing.

    Args:
        root: the project's folder.
        release_name: release.name.

    Raises:
        ClipBertError: the store or the ledger cannot be read.
    """
    if tracking_uri(root) == embedded_uri(root) and not (root / EMBEDDED).is_file():
        return {}
    store = open_store(root, release_name)
    found: dict[str, str] = {}
    with Ledger(root) as ledger, store_errors(store.uri, "cannot be read"):
        for task in tasks:
            if words := past_gate(store, ledger.entries(task), task, store.model_name(task)):
                found[task] = words
    return found


def past_gate(store: Store, entries: list[Entry], task: str, name: str, state: AliasState | None = None) -> str:
    """Return what was set past the gate, in a sentence; empty if the aliases are those of the last decision.

    A champion that another project folder promoted later, which the tags of its version record, is not past the gate.

    Args:
        entries: rows of the ledger about the task.
        name: the registered model.
        state: the present aliases; None: those of the registry.
    """
    found = alias_state(store, name) if state is None else state
    expected, changed_at = _last_change(entries, store_identity(store), name)
    if found == expected or _promoted_elsewhere(store, name, found[CHAMPION], entries, changed_at):
        return ""
    alias = CHAMPION if found[CHAMPION] != expected[CHAMPION] else PREVIOUS
    here = f"version {found[alias]}" if found[alias] else "no version"
    there = f"version {expected[alias]}" if expected[alias] else "none"
    remedy = (
        f"Give the alias {alias} of {name} in MLflow's UI back to version {expected[alias]}"
        if expected[alias]
        else f"Delete the alias {alias} of {name} in MLflow's UI"
    )
    return (
        f"{name}: {here} has the alias {alias}, set past the gate: the last decision in mlflow/ledger.db made it "
        f"{there}. {remedy}, or decide with the gate: `clipbert promote {task}`, `clipbert rollback {task}`."
    )


def _last_change(entries: list[Entry], store: str, name: str) -> tuple[AliasState, str]:
    """Return the aliases after the last change that the gate made, and its time; none and "" without one."""
    intents = {entry.id: entry for entry in entries if entry.kind == "intent"}
    for entry in reversed(entries):
        intent = intents.get(entry.id)
        if entry.kind == "completed" and intent and intent.store == store and intent.facts["name"] == name:
            after: AliasState = intent.facts["after"]
            return after, str(intent.facts["decision"]["at"])
    return {CHAMPION: None, PREVIOUS: None}, ""


def _promoted_elsewhere(store: Store, name: str, version: str | None, entries: list[Entry], since: str) -> bool:
    """Return whether the tags of a version say that another project folder made it the champion after `since`.

    A rollback of another folder leaves the tags of the version that it rolled back, and those of the older promotion
    of the one that is the champion again.
    """
    if version is None:
        return False
    try:
        versions = store.client.search_model_versions(f"name = '{name}'")
    except MlflowException:
        return False
    own = {entry.id for entry in entries}
    decided = [
        (*(one.tags.get(f"{PREFIX}{key}", "") for key in ("at", "decision", "id")), str(one.version))
        for one in versions
    ]
    elsewhere = sorted(entry for entry in decided if entry[2] not in own and entry[0] and entry[0] >= since)
    if not elsewhere:
        return False
    _, last, _, about = elsewhere[-1]
    was_promoted = any(what == "promoted" and number == version for _, what, _, number in decided)
    return (last == "promoted" and about == version) or (last == "rolled_back" and about != version and was_promoted)
