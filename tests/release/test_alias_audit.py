"""Aliases that MLflow's UI or its REST API set past the gate are found; the gate's own are not."""

import pytest
from params_file import write_params
from policies import task_policy

from clipbert.cli.release import history as history_command
from clipbert.cli.summary import _print_versions
from clipbert.config.schema import Params
from clipbert.dashboard.page import write_dashboard
from clipbert.project import Project
from clipbert.release.alias_audit import aliases_past_gate
from clipbert.release.connection import open_store
from clipbert.release.ledger import LEDGER
from clipbert.release.promotion import promote, rollback

NAME = "clipbert-retrieval"
GATE = task_policy()


def audit(root):
    return aliases_past_gate(root, ["retrieval", "open_qa"]).get("retrieval", "")


def test_a_champion_of_the_ui_is_shown_until_the_gate_decides(root, release_embedded, predictions, capsys, monkeypatch):
    assert audit(root) == ""
    release_embedded(0, predictions(30))
    client = open_store(root).client
    client.set_registered_model_alias(NAME, "champion", "1")  # before the ledger exists
    assert "version 1 has the alias champion, set past the gate" in audit(root)
    assert "Delete the alias champion" in audit(root)
    client.delete_registered_model_alias(NAME, "champion")
    promote(root, "retrieval", GATE)
    release_embedded(1, predictions(48))
    promote(root, "retrieval", GATE)
    assert audit(root) == ""

    client.set_registered_model_alias(NAME, "champion", "1")
    words = audit(root)
    assert "version 1 has the alias champion, set past the gate: the last decision" in words
    assert "Give the alias champion of clipbert-retrieval in MLflow's UI back to version 2" in words
    write_params(root)
    monkeypatch.chdir(root)
    for _ in range(2):  # not only when it is found first
        history_command("retrieval", as_json=True)
        assert words in " ".join(capsys.readouterr().err.split())
    page = write_dashboard(Project(root), ["retrieval"], "clipbert").read_text()
    assert "version 1 has the alias champion, set past the gate" in page
    _print_versions(Project(root), Params(), ["retrieval"])
    assert "set past the gate" in capsys.readouterr().out

    assert promote(root, "retrieval", GATE).decision == "promoted"
    assert audit(root) == ""
    client.set_registered_model_alias(NAME, "previous", "2")
    assert "version 2 has the alias previous, set past the gate" in audit(root)
    client.set_registered_model_alias(NAME, "previous", "1")
    assert audit(root) == ""
    client.delete_registered_model_alias(NAME, "champion")
    assert "no version has the alias champion, set past the gate" in audit(root)


@pytest.mark.parametrize("change", ["promote", "rollback"])
def test_a_change_of_another_project_folder_is_not_past_the_gate(root, release_embedded, predictions, change):
    release_embedded(0, predictions(30))
    promote(root, "retrieval", GATE)
    kept = (root / LEDGER).read_bytes()
    release_embedded(1, predictions(48))
    promote(root, "retrieval", GATE)
    if change == "rollback":
        rollback(root, "retrieval")
    (root / LEDGER).write_bytes(kept)  # that of a folder which has made the first promotion alone
    assert audit(root) == ""
