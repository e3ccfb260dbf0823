"""History of a project's promotions and rollbacks, read from the ledger."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clipbert.console import errors
from clipbert.errors import ClipBertError
from clipbert.release.alias_transaction import pending_intents
from clipbert.release.aliases import CHAMPION, format_aliases
from clipbert.release.connection import open_store
from clipbert.release.decisions import Decision
from clipbert.release.ledger import Entry, Ledger
from clipbert.release.session import ReleaseSession, print_note, repair
from clipbert.release.task_lock import task_lock


@dataclass(frozen=True)
class Event:
    """One line of the history."""

    at: str
    by: str
    task: str
    name: str  # of the registered model
    store: str
    decision: str  # promoted, rejected, rolled_back; undone, abandoned, interrupted; observed
    version: str | None  # the version that the decision is about
    champion_from: str | None
    champion_to: str | None
    reason: str
    numbers: dict[str, Any]
    id: str
    approved_by: str | None = None  # the person who approved or declined
    note: str | None = None  # of that person
    checks: list[dict[str, Any]] | None = None  # of the gate's verdict

    def to_json(self) -> dict[str, Any]:
        """Return the event as `clipbert history --json` prints it."""
        values = dict(vars(self))
        return {"from": values.pop("champion_from"), "to": values.pop("champion_to"), **values}


def history(root: Path, task: str | None = None) -> list[Event]:
    """Complete or undo interrupted changes, then return the events of the ledger, oldest first.

    If the store cannot be used or another process is changing the task, a line on stderr says so and the ledger is
    returned as it is.

    Args:
        root: the project's folder.
        task: the task; None: all tasks.

    Raises:
        ClipBertError: the ledger is damaged or cannot be read.
    """
    with Ledger(root) as ledger:
        models = sorted({(entry.task, str(entry.facts["name"])) for entry in ledger.entries(task)})
        for each, name in models:
            try:
                _repair(root, each, name, ledger)
            except ClipBertError as error:
                errors.print(f"The ledger could not be compared with the registry of {name}: {error}")
        return events(ledger.entries(task))


def events(entries: list[Entry]) -> list[Event]:
    """Return the events that rows of the ledger describe."""
    intents = {entry.id: entry for entry in entries if entry.kind == "intent"}
    open_ids = {entry.id for store in {entry.store for entry in entries} for entry in pending_intents(entries, store)}
    found = []
    for entry in entries:
        if entry.kind == "observed":
            found.append(_observed(entry))
        elif entry.kind != "intent":
            found.append(_decided(entry, intents.get(entry.id, entry)))
        elif entry.id in open_ids:
            found.append(_decided(entry, entry))
    return found


def _repair(root: Path, task: str, name: str, ledger: Ledger) -> None:
    store = open_store(root, name.removesuffix(f"-{task}"))
    with task_lock(store.root, task, wait=False) as acquired:
        if acquired:
            repair(ReleaseSession(store, ledger, task, name), print_note)
        else:
            errors.print(f"A promotion, rollback or registration of {task} is running.")


def _decided(entry: Entry, source: Entry) -> Event:
    decision = Decision(**source.facts["decision"])
    before = source.facts.get("before") or source.facts["found"]
    start = end = before[CHAMPION]
    what: str = decision.decision
    reason, numbers = decision.reason, decision.numbers()
    words = "rollback" if what == "rolled_back" else "promotion"
    at, by = source.at, source.by
    if entry.kind == "completed":
        end = source.facts["after"][CHAMPION]
    elif entry.kind == "undone":
        what, reason = "undone", f"the {words} was interrupted before an alias was moved"
        at, by = entry.at, entry.by
    elif entry.kind == "abandoned":
        what, end = "abandoned", entry.facts["found"][CHAMPION]
        moved = format_aliases(entry.facts["found"])
        reason = f"the {words} was interrupted, then something else moved the aliases: {moved}"
        at, by = entry.at, entry.by
    elif entry.kind == "intent":
        what, reason = "interrupted", f"the {words} is not finished"
        end = source.facts["after"][CHAMPION]
    return Event(
        at,
        by,
        entry.task,
        source.facts["name"],
        entry.store,
        what,
        decision.version,
        start,
        end,
        reason,
        numbers,
        entry.id,
        decision.approved_by,
        decision.note,
        None if decision.verdict is None else decision.verdict["checks"],
    )


def _observed(entry: Entry) -> Event:
    expected, found = entry.facts["expected"], entry.facts["found"]
    reason = "the ledger begins" if expected is None else "something other than this project moved the aliases"
    start = None if expected is None else expected[CHAMPION]
    return Event(
        entry.at,
        entry.by,
        entry.task,
        entry.facts["name"],
        entry.store,
        "observed",
        None,
        start,
        found[CHAMPION],
        f"{reason}: {format_aliases(found)}",
        {},
        entry.id,
    )
