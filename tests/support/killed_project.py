"""Project with two versions for killed promotions and rollbacks; also for benchmarks/promotion_kills.py.

Database connections must not cross a fork, so only forked children open its store.
"""

import contextlib
import shutil
from pathlib import Path

import pandas as pd
from agreement import NAME, assert_agreement
from policies import task_policy
from small_releases import releaser, save_model, scored_items
from write_points import in_child

from clipbert.errors import ClipBertError
from clipbert.release.aliases import aliases
from clipbert.release.connection import open_store
from clipbert.release.derived import effective_decisions
from clipbert.release.history import history
from clipbert.release.ledger import ENDS, Ledger
from clipbert.release.promotion import promote, rollback

GATE = task_policy()
TASK = "retrieval"
COMMANDS = {"promote": "1", "rollback": "2"}  # and the champion before each


class KilledProject:
    """Project at `root` that can be restored to the state before each of COMMANDS."""

    def __init__(self, root: Path, kept: Path, models: list[Path]) -> None:
        self.root, self.kept, self.models = root, kept, models

    def keep(self, command: str) -> None:
        """Save the present state as the one before `command`."""
        folder = self.kept / command
        (folder / "mlflow").mkdir(parents=True)
        for name in ("mlflow.db", "ledger.db"):
            shutil.copyfile(self.root / "mlflow" / name, folder / "mlflow" / name)
        shutil.copytree(self.root / "artifacts/promotions", folder / "promotions")

    def restore(self, command: str) -> None:
        """Restore the state before `command`."""
        for path in (self.root / "mlflow").glob("*.db*"):
            path.unlink()
        shutil.copytree(self.kept / command / "mlflow", self.root / "mlflow", dirs_exist_ok=True)
        shutil.rmtree(self.root / "artifacts/promotions", ignore_errors=True)
        shutil.copytree(self.kept / command / "promotions", self.root / "artifacts/promotions")

    def register(self, seed: int, items: pd.DataFrame) -> None:
        """Register the model of a seed."""
        releaser(self.root, lambda _, number: self.models[number])(seed, items)

    def run(self, command: str) -> None:
        """Run one of COMMANDS in this process."""
        if command == "promote":
            promote(self.root, TASK, GATE)
        else:
            rollback(self.root, TASK)

    def follow(self, command: str) -> None:
        """Run the next command after a kill, which may have nothing to roll back."""
        if command == "history":
            history(self.root)
        elif command == "register":
            self.register(1, scored_items(48))
        else:
            with contextlib.suppress(ClipBertError):
                self.run(command)

    def outcome(self, command: str) -> str:
        """Return the ledger's state of the killed change: "no intent", or the kind of its end."""
        with Ledger(self.root) as ledger:
            entries = ledger.entries(TASK)
        before = 1 if command == "promote" else 2
        intents = [entry for entry in entries if entry.kind == "intent"][before:]
        if not intents:
            return "no intent"
        return next(entry.kind for entry in entries if entry.kind in ENDS and entry.id == intents[0].id)


def make_project(folder: Path, database: Path | None = None) -> KilledProject:
    """Return a project whose version 1 is the champion and whose version 2 is better.

    Args:
        folder: for its files.
        database: an empty MLflow database to copy, since creating one takes seconds.
    """
    root = folder / "a project"
    (root / "mlflow").mkdir(parents=True)
    if database is not None:
        shutil.copyfile(database, root / "mlflow" / "mlflow.db")
    models = [save_model(folder / f"models-{seed}" / TASK, TASK, seed) for seed in (0, 1)]
    made = KilledProject(root, folder / "kept", models)

    def prepare() -> None:
        made.register(0, scored_items(30))
        promote(root, TASK, GATE)
        made.register(1, scored_items(48))
        made.keep("promote")
        promote(root, TASK, GATE)
        made.keep("rollback")

    assert in_child(prepare) == 0
    return made


def assert_safe(root: Path) -> None:
    """Fail unless aliases, ledger, tags and file agree and a rolled-back version stays rolled back."""
    assert_agreement(root)
    found = aliases(open_store(root), NAME)
    place = {alias: version for alias, version in found.items() if alias != "candidate"}
    assert place in ({"champion": "1"}, {"champion": "2", "previous": "1"})
    with Ledger(root) as ledger:
        made = [each for each in effective_decisions(ledger.entries(TASK)) if each.version == "2"]
    changes = [each for each in made if each.decision != "rejected"]
    if changes and changes[-1].decision == "rolled_back":
        assert place == {"champion": "1"}
        assert promote(root, TASK, GATE).decision == "rejected"
        assert aliases(open_store(root), NAME)["champion"] == "1"
        assert_agreement(root)
