"""One promotion, rollback or registration of a task: the lock, the ledger, and repair of what an earlier one left."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

from clipbert.console import errors
from clipbert.errors import ClipBertError
from clipbert.release.alias_transaction import Note, observe, recover, store_identity
from clipbert.release.derived import publish
from clipbert.release.ledger import Ledger
from clipbert.release.ownership import claim_model
from clipbert.release.store import Store, store_errors
from clipbert.release.task_lock import task_lock


def print_note(line: str) -> None:
    """Print a line about a repair, apart from the results on stdout."""
    errors.print(line, markup=False)


@dataclass(frozen=True)
class ReleaseSession:
    """The store and the ledger of a task while its lock is held."""

    store: Store
    ledger: Ledger
    task: str
    name: str  # of the registered model

    def publish(self) -> None:
        """Bring tags and the decision file up to date with the ledger."""
        publish(self.store, self.ledger.entries(self.task), store_identity(self.store), self.name, self.task)


@contextlib.contextmanager
def release_session(store: Store, task: str, name: str, note: Note = print_note) -> Iterator[ReleaseSession]:
    """Hold the task's lock; first complete or undo an interrupted change, then report aliases that were moved
    elsewhere, then repair tags and file.

    Args:
        name: of the registered model.
        note: receives a line about each repair.

    Raises:
        ClipBertError: the model belongs to another project, or the store or the ledger failed.
    """
    with task_lock(store.root, task), Ledger(store.root) as ledger:
        session = ReleaseSession(store, ledger, task, name)
        repair(session, note)
        yield session


def repair(session: ReleaseSession, note: Note) -> None:
    """Make aliases, ledger, tags and file agree; see `release_session`.

    Raises:
        ClipBertError: the model belongs to another project, or the store or the ledger failed.
    """
    store, ledger, task, name = session.store, session.ledger, session.task, session.name
    with store_errors(store.uri, f"cannot be compared with the ledger of {name}"):
        claim_model(store, name)
        recover(ledger, store, task, note)
        observe(ledger, store, name, task, note)
        session.publish()


def publish_decision(session: ReleaseSession, state: str) -> None:
    """Publish a decision that the ledger has.

    Args:
        state: what is true now, for the message when publishing fails.

    Raises:
        ClipBertError: a tag or the file could not be written; the decision stands.
    """
    try:
        with store_errors(session.store.uri, f"cannot tag the versions of {session.name}"):
            session.publish()
    except ClipBertError as error:
        raise ClipBertError(
            f"{session.name}: {state}, and the ledger has recorded it; its copy in the version tags or in "
            f"artifacts/promotions could not be written. `clipbert history {session.task}` writes it.\n{error}"
        ) from error
