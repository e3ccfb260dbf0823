"""Consistency check of a project's aliases, ledger, version tags and decision file."""

import json
from dataclasses import asdict
from pathlib import Path

from clipbert.release.alias_transaction import last_known_aliases, pending_intents, store_identity
from clipbert.release.aliases import alias_state
from clipbert.release.connection import open_store
from clipbert.release.derived import decision_path, effective_decisions
from clipbert.release.ledger import Ledger

NAME = "clipbert-retrieval"


def assert_agreement(root: Path, task: str = "retrieval") -> None:
    """Fail unless aliases, ledger, tags and file agree and no change is incomplete."""
    store = open_store(root)
    with Ledger(root) as ledger:
        entries = ledger.entries(task)
    assert pending_intents(entries, store_identity(store)) == []
    expected = last_known_aliases(entries, store_identity(store), NAME)
    assert alias_state(store, NAME) == (expected or {"champion": None, "previous": None})
    made = effective_decisions(entries, store_identity(store), NAME)
    path = decision_path(root, task)
    assert (json.loads(path.read_text()) if path.exists() else None) == (asdict(made[-1]) if made else None)
    last = {decision.version: decision for decision in made}
    for version in store.client.search_model_versions(f"name = '{NAME}'"):
        tags = {key: value for key, value in version.tags.items() if key.startswith("promotion.")}
        decision = last.get(str(version.version))
        if decision is None:
            assert tags == {}
            continue
        for key in ("decision", "reason", "at", "by", "id"):
            assert tags[f"promotion.{key}"] == getattr(decision, key)
        changes = [each for each in made if each.version == str(version.version) and each.decision != "rejected"]
        assert ("promotion.rolled_back" in tags) == (bool(changes) and changes[-1].decision == "rolled_back")
