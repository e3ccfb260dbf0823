"""Alias changes as transactions: an intent in the ledger before, a completion after, and recovery in between.

An intent without an end means that the process died or the store failed. `recover_interrupted` completes the change if
an alias was moved, and marks it as undone if none was.
"""

import sqlite3
import uuid
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import requests
from mlflow.exceptions import MlflowException
from sqlalchemy.exc import SQLAlchemyError

from clipbert.errors import ClipBertError
from clipbert.redact import redact
from clipbert.release.aliases import (
    CHAMPION,
    AliasState,
    alias_state,
    format_aliases,
    intermediate_states,
    move_aliases,
)
from clipbert.release.decisions import Decision
from clipbert.release.ledger import ENDS, Entry, Kind, Ledger
from clipbert.release.store import EMBEDDED, Store, short_timeouts, store_errors

Notify = Callable[[str], None]
FAILURES = (ClipBertError, MlflowException, SQLAlchemyError, sqlite3.Error, requests.RequestException, OSError)


def store_identity(store: Store) -> str:
    """Return the registry's name in the ledger: without a password, and without a folder for the embedded store."""
    embedded = store.embedded and store.registry_uri == store.uri
    return f"sqlite:///{EMBEDDED}" if embedded else redact(store.registry_uri)


def record_decision(ledger: Ledger, store: Store, decision: Decision) -> None:
    """Append a decision that moves no alias.

    Raises:
        ClipBertError: the ledger cannot be written; nothing was changed.
    """
    found = alias_state(store, decision.name)
    facts = {"name": decision.name, "decision": asdict(decision), "found": found}
    ledger.append("decided", decision.id, decision.task, store_identity(store), facts)


def change_aliases(ledger: Ledger, store: Store, decision: Decision, before: AliasState, after: AliasState) -> None:
    """Move the aliases from `before` to `after` between an intent and a completion in the ledger.

    Raises:
        ClipBertError: the ledger or the store failed; the message says which version is the champion now.
    """
    facts = {"name": decision.name, "decision": asdict(decision), "before": before, "after": after}
    intent = ledger.append("intent", decision.id, decision.task, store_identity(store), facts)
    try:
        with store_errors(store.uri, f"cannot move the aliases of {decision.name}"):
            move_aliases(store, decision.name, before, after)
            found = alias_state(store, decision.name)
        if found != after:
            raise ClipBertError(
                f"the aliases are {format_aliases(found)} instead of {format_aliases(after)}: another process moved "
                "them at the same time"
            )
        _close_intent(ledger, intent, "completed")
    except ClipBertError as error:
        raise ClipBertError(_failure_message(ledger, store, intent, str(error))) from error


def recover_interrupted(ledger: Ledger, store: Store, task: str, notify: Notify) -> None:
    """Complete or undo the changes of a task that were interrupted; `notify` receives a line about each of them.

    Raises:
        ClipBertError: the ledger or the store failed.
    """
    for intent in pending_intents(ledger.entries(task), store_identity(store)):
        name, before, after = intent.facts["name"], intent.facts["before"], intent.facts["after"]
        title = f"{name}: the {_title(intent)} of {intent.at} by {intent.by} was interrupted"
        found = alias_state(store, name)
        if found == before:
            _close_intent(ledger, intent, "undone")
            notify(f"{title} before an alias was moved; it was undone. Run it again if it is still wanted.")
        elif found in intermediate_states(before, after):
            move_aliases(store, name, found, after)
            found = alias_state(store, name)
            if found != after:
                raise ClipBertError(
                    f"{title} and could not be completed: the aliases are {format_aliases(found)} instead of "
                    f"{format_aliases(after)}. Run `clipbert history {task}` when no other process moves them."
                )
            _close_intent(ledger, intent, "completed")
            notify(f"{title}; it was completed: {format_aliases(after)}.")
        else:
            _close_intent(ledger, intent, "abandoned", found=found)
            notify(f"{title}; it was abandoned, because something else moved the aliases: {format_aliases(found)}.")


def record_external_changes(ledger: Ledger, store: Store, name: str, task: str, notify: Notify) -> None:
    """Record and report a difference between the aliases in the registry and those in the ledger; move nothing.

    Raises:
        ClipBertError: the ledger or the store failed.
    """
    identity = store_identity(store)
    expected = last_known_aliases(ledger.entries(task), identity, name)
    found = alias_state(store, name)
    if found == expected or (expected is None and found[CHAMPION] is None):
        return
    facts = {"name": name, "expected": expected, "found": found}
    ledger.append("observed", uuid.uuid4().hex, task, identity, facts)
    if expected is not None:
        notify(
            f"{name}: something other than this project moved the aliases: the ledger has "
            f"{format_aliases(expected)}, the registry has {format_aliases(found)}. This is recorded; nothing "
            f"was moved back. See `clipbert history {task}`."
        )


def pending_intents(entries: list[Entry], store: str) -> list[Entry]:
    """Return the intents of a store that have no end yet, oldest first."""
    ended = {entry.id for entry in entries if entry.kind in ENDS}
    return [entry for entry in entries if entry.kind == "intent" and entry.store == store and entry.id not in ended]


def last_known_aliases(entries: list[Entry], store: str, name: str) -> AliasState | None:
    """Return the last state of a model's aliases that the ledger has; None if it has none."""
    intents = {entry.id: entry for entry in entries if entry.kind == "intent"}
    for entry in reversed(entries):
        source = intents.get(entry.id, entry)
        if entry.store != store or source.facts["name"] != name or entry.kind == "intent":
            continue
        found: AliasState = (
            source.facts["after"]
            if entry.kind == "completed"
            else source.facts["before"]
            if entry.kind == "undone"
            else entry.facts["found"]
        )
        return found
    return None


def _close_intent(ledger: Ledger, intent: Entry, kind: Kind, **facts: Any) -> None:
    ledger.append(kind, intent.id, intent.task, intent.store, {"name": intent.facts["name"], **facts})


def _failure_message(ledger: Ledger, store: Store, intent: Entry, cause: str) -> str:
    """Return the message for a change that failed: the present state, the next step, and the cause."""
    name, before, after = intent.facts["name"], intent.facts["before"], intent.facts["after"]
    again = f"`clipbert history {intent.task}`"
    try:
        with short_timeouts():
            found = alias_state(store, name)
    except FAILURES:
        state = f"it is not known whether its aliases were moved. {again} completes or undoes it when the store answers"
        return f"{name}: the {_title(intent)} failed, and {state}.\n{cause}"
    champion = f"the champion is {_version(found)}"
    if found == before:
        try:
            _close_intent(ledger, intent, "undone")
            state = f"nothing was changed: {champion}"
        except ClipBertError:
            state = f"nothing was changed: {champion}. {again} marks it as undone in the ledger"
    elif found == after:
        state = f"its aliases were moved nevertheless: {champion} now. {again} completes the ledger"
    elif found in intermediate_states(before, after):
        state = f"it is half done: {champion}. {again} completes it"
    else:
        state = f"something else moved the aliases: they are {format_aliases(found)}. {again} records that"
    return f"{name}: the {_title(intent)} failed; {state}.\n{cause}"


def _version(found: AliasState) -> str:
    return "none" if found[CHAMPION] is None else f"version {found[CHAMPION]}"


def _title(intent: Entry) -> str:
    decision = intent.facts["decision"]
    verb = "rollback" if decision["decision"] == "rolled_back" else "promotion"
    return f"{verb} of version {decision['version']}"
