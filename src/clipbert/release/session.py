"""Session of a promotion, rollback or registration: the task's lock, the ledger, and repair of interrupted changes."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

from clipbert.console import errors
from clipbert.errors import ClipBertError
from clipbert.release.alias_transaction import Notify, record_external_changes, recover_interrupted, store_identity
from clipbert.release.derived import publish_decisions
from clipbert.release.ledger import Ledger
from clipbert.release.ownership import claim_model
from clipbert.release.store import Store, store_errors
from clipbert.release.task_lock import task_lock


def print_note(line: str) -> None:
    """Print a line about a repair to stderr."""
    errors.print(line)


@dataclass(frozen=True)
class ReleaseSession:
    """Store and ledger of a task while its lock is held."""

    store: Store
    ledger: Ledger
    task: str
    name: str  # of the registered model

    def publish(self) -> None:
        """Bring tags and the decision file up to date with the ledger."""
        publish_decisions(self.store, self.ledger.entries(self.task), store_identity(self.store), self.name, self.task)


@contextlib.contextmanager
def release_session(store: Store, task: str, name: str, notify: Notify = print_note) -> Iterator[ReleaseSession]:
    """Hold the task's lock after a repair of the task's state.

    The repair completes or undoes an interrupted change, reports aliases that another program moved, and rewrites
    version tags and the decision file.

    Args:
        name: the registered model.
        notify: receives a line about each repair.

    Raises:
        ClipBertError: the model belongs to another project, or the store or the ledger failed.
    """
    with task_lock(store.root, task), Ledger(store.root) as ledger:
        session = ReleaseSession(store, ledger, task, name)
        repair(session, notify)
        yield session


def repair(session: ReleaseSession, notify: Notify) -> None:
    """Make aliases, ledger, version tags and decision file agree; see `release_session`.

    Raises:
        ClipBertError: the model belongs to another project, or the store or the ledger failed.
    """
    store, ledger, task, name = session.store, session.ledger, session.task, session.name
    with store_errors(store.uri, f"cannot be compared with the ledger of {name}"):
        claim_model(store, name)
        recover_interrupted(ledger, store, task, notify)
        record_external_changes(ledger, store, name, task, notify)
        session.publish()


def publish_decision(session: ReleaseSession, state: str) -> None:
    """Publish a decision that the ledger has.

    Args:
        state: the present state, for the message if publishing fails.

    Raises:
        ClipBertError: a tag or the file could not be written; the decision stands.
    """
    try:
        with store_errors(session.store.uri, f"cannot tag the versions of {session.name}"):
            session.publish()
    except ClipBertError as error:
        raise ClipBertError(
            f"{session.name}: {state} and the ledger has recorded it, but its copy in the version tags or in "
            f"artifacts/promotions could not be written. `clipbert history {session.task}` writes it.\n{error}"
        ) from error
