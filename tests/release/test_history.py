import json
import shutil
from pathlib import Path

import pytest
from agreement import NAME, assert_agreement
from policies import task_policy
from typer.testing import CliRunner

from clipbert.cli.main import app
from clipbert.config.schema import Params, ReleaseParams
from clipbert.errors import ClipBertError
from clipbert.release.aliases import aliases
from clipbert.release.connection import open_store
from clipbert.release.derived import decision_path
from clipbert.release.history import history
from clipbert.release.ledger import LEDGER
from clipbert.release.ownership import PROJECT_TAG
from clipbert.release.promotion import promote, rollback

GATE = task_policy()


@pytest.fixture
def champion(root, release_embedded, predictions):
    """A project whose version 2 is the champion, version 1 the one before."""
    for seed, correct in ((0, 30), (1, 48)):
        release_embedded(seed, predictions(correct))
        assert promote(root, "retrieval", GATE).decision == "promoted"
    return root


def test_history_says_when_who_from_to_decision_reason_and_numbers(champion, monkeypatch):
    back = rollback(champion, "retrieval")
    first, second, third = history(champion, "retrieval")
    assert (first.decision, first.version, first.champion_from, first.champion_to) == ("promoted", "1", None, "1")
    assert (second.champion_from, second.champion_to, second.numbers["mean_difference"]) == ("1", "2", 0.3)
    assert (third.decision, third.version, third.champion_from, third.champion_to) == ("rolled_back", "2", "2", "1")
    assert (third.at, third.by, third.reason) == (back.at, back.by, back.reason)

    monkeypatch.chdir(champion)
    runner = CliRunner()
    told = json.loads(runner.invoke(app, ["history", "--json"]).stdout)
    assert [(event["from"], event["to"], event["decision"]) for event in told] == [
        (None, "1", "promoted"),
        ("1", "2", "promoted"),
        ("2", "1", "rolled_back"),
    ]
    assert told[1]["numbers"] == second.numbers
    lines = runner.invoke(app, ["history", "retrieval"]).stdout.splitlines()
    assert len(lines) == 3
    assert lines[2] == f"{back.at}  {back.by}  retrieval  2 -> 1  rolled back 2  {back.reason}"


def test_a_project_without_decisions(root, monkeypatch):
    monkeypatch.chdir(root)
    result = CliRunner().invoke(app, ["history"])
    assert result.exit_code == 0
    assert "No promotion or rollback yet" in result.stdout
    assert not (root / LEDGER).exists()


def test_tags_and_file_are_rebuilt_when_missing_or_different(champion):
    store, path = open_store(champion), decision_path(champion, "retrieval")
    path.write_text("{}")
    store.client.set_model_version_tag(NAME, "1", "promotion.reason", "something else")
    store.client.delete_model_version_tag(NAME, "2", "promotion.decision")
    store.client.set_model_version_tag(NAME, "2", "promotion.rolled_back", "2020-01-01T00:00:00+00:00 by nobody@here")
    history(champion)
    assert_agreement(champion)
    shutil.rmtree(path.parent)
    history(champion)
    assert_agreement(champion)


def test_aliases_that_something_else_moved_are_reported_and_left(champion, capsys):
    store = open_store(champion)
    store.client.set_registered_model_alias(NAME, "champion", "1")
    event = history(champion)[-1]
    assert (event.decision, event.champion_from, event.champion_to) == ("observed", "2", "1")
    said = capsys.readouterr().err
    assert "the ledger has champion 2, previous 1, the registry has champion 1, previous 1" in said
    assert aliases(store, NAME)["champion"] == "1"
    history(champion)
    assert capsys.readouterr().err == ""


def test_history_without_the_store_shows_the_ledger(champion, monkeypatch, capsys):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:////dev/null/here/mlflow.db")
    assert [event.decision for event in history(champion)] == ["promoted", "promoted"]
    assert f"The ledger could not be compared with the registry of {NAME}" in capsys.readouterr().err


def test_a_rolled_back_model_stays_blocked_until_reconsidered(champion, release_embedded, predictions):
    """Across rejected retries, lost tags, other candidates, and a new version of the same files."""
    root = champion
    back = rollback(root, "retrieval")
    for _ in range(3):
        again = promote(root, "retrieval", GATE)
        assert again.decision == "rejected"
        assert f"version 2 was rolled back on {back.at} by {back.by}" in again.reason
    store = open_store(root)
    for key in store.client.get_model_version(NAME, "2").tags:
        if key.startswith("promotion."):
            store.client.delete_model_version_tag(NAME, "2", key)
    assert promote(root, "retrieval", GATE).decision == "rejected"

    store.client.delete_model_version(NAME, "2")
    assert release_embedded(1, predictions(48)).version == "3"
    again = promote(root, "retrieval", GATE)
    assert (again.decision, again.champion) == ("rejected", "1")
    assert promote(root, "retrieval", GATE, reconsider=True).decision == "promoted"
    assert "promotion.rolled_back" not in store.client.get_model_version(NAME, "3").tags
    assert_agreement(root)


def test_models_of_an_earlier_release_name_are_repaired_and_the_file_has_the_last_decision(
    champion, release_in, predictions
):
    """`aaa` comes before `clipbert` in the alphabet, and after it in time."""
    root, renamed = champion, Params(release=ReleaseParams(name="aaa"))
    release_in(root)(2, predictions(50), params=renamed)
    made = promote(root, "retrieval", GATE, "aaa")
    assert (made.name, made.decision) == ("aaa-retrieval", "promoted")
    open_store(root).client.delete_model_version_tag(NAME, "2", "promotion.decision")
    for _ in range(2):
        assert [(event.name, event.champion_to) for event in history(root)] == [
            (NAME, "1"),
            (NAME, "2"),
            ("aaa-retrieval", "1"),
        ]
        assert json.loads(decision_path(root, "retrieval").read_text())["name"] == "aaa-retrieval"
    assert open_store(root).client.get_model_version(NAME, "2").tags["promotion.decision"] == "promoted"
    assert rollback(root, "retrieval").name == NAME
    assert json.loads(decision_path(root, "retrieval").read_text())["name"] == NAME


def test_history_leaves_a_model_alone_that_is_another_projects_now(champion, monkeypatch, capsys):
    """The store is a shared one, so the owner counts; the ledger is shown nevertheless."""
    database = champion.parent / "shared.db"
    shutil.copyfile(champion / "mlflow" / "mlflow.db", database)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{database}")
    client = open_store(champion).client
    client.set_registered_model_tag(NAME, PROJECT_TAG, "f" * 32)
    before = client.get_model_version(NAME, "2").tags
    assert len(history(champion)) == 2
    assert "belongs to another project" in capsys.readouterr().err
    assert client.get_model_version(NAME, "2").tags == before


def test_another_projects_rollback_blocks_here_too(champion, tmp_path):
    """Two folders that share a registry: each has its own ledger, the tags of the versions carry the block."""
    rollback(champion, "retrieval")
    (champion / LEDGER).rename(tmp_path / "ledger of the other machine")
    assert promote(champion, "retrieval", GATE).decision == "rejected"
    assert promote(champion, "retrieval", GATE).decision == "rejected"
    tags = open_store(champion).client.get_model_version(NAME, "2").tags
    assert (tags["promotion.decision"], "promotion.rolled_back" in tags) == ("rejected", True)


def test_a_damaged_ledger_stops_every_command(champion, monkeypatch):
    (champion / LEDGER).write_bytes(b"\0" * 5000)
    for command in (promote, rollback):
        with pytest.raises(ClipBertError, match="the promotion ledger is damaged"):
            command(champion, "retrieval", *([GATE] if command is promote else []))
    assert aliases(open_store(champion), NAME)["champion"] == "2"
    monkeypatch.chdir(Path(champion))
    assert CliRunner().invoke(app, ["history"]).exception.args[0].startswith(str(champion / LEDGER))
