"""A person's approval: what waits, what an answer changes, and what is recorded of it."""

import json
from pathlib import Path

import pytest
from agreement import assert_agreement
from policies import task_policy

from clipbert.errors import ClipBertError
from clipbert.project import Project
from clipbert.release.aliases import aliases
from clipbert.release.connection import open_store
from clipbert.release.decisions import Approval
from clipbert.release.history import history
from clipbert.release.promotion import decision_path, promote

NAME = "clipbert-retrieval"
AUTO, PERSON = task_policy(), task_policy(approval="person", guards={})


def no_evaluation(*_):
    pytest.fail("the models were compared again")


@pytest.fixture
def waiting(root, release_embedded, predictions):
    """A project with champion 1 and candidate 2, which passed the gate and waits for a person."""
    release_embedded(0, predictions(30))
    assert promote(root, "retrieval", AUTO).decision == "promoted"
    release_embedded(1, predictions(48))
    assert promote(root, "retrieval", PERSON).decision == "pending"
    return root


def test_a_candidate_waits_and_an_approval_promotes_it_without_another_comparison(waiting, monkeypatch):
    root, store = waiting, open_store(waiting)
    pending = json.loads(decision_path(root, "retrieval").read_text())
    assert aliases(store, NAME) == {"candidate": "2", "champion": "1"}
    assert pending["champion"] == "1"
    assert "it waits for a person: `clipbert promote retrieval --approve`" in pending["reason"]
    assert [row["candidate"] for row in pending["verdict"]["headlines"]] == ["80.0 %"]
    again = promote(root, "retrieval", PERSON)  # the first form stays valid
    assert (again.decision, again.id != pending["id"]) == ("pending", True)
    monkeypatch.setattr("clipbert.release.promotion.decide", no_evaluation)
    made = promote(root, "retrieval", PERSON, approval=Approval(True, "Ann", "looks right", pending["id"]))
    assert (made.decision, made.champion, made.approved_by, made.note) == ("promoted", "2", "Ann", "looks right")
    assert "it waits" not in made.reason
    assert aliases(store, NAME) == {"candidate": "2", "champion": "2", "previous": "1"}
    tags = store.client.get_model_version(NAME, "2").tags
    assert (tags["promotion.approved_by"], tags["promotion.note"]) == ("Ann", "looks right")
    assert tags["promotion.check.main_metric"].startswith("passed: +30.0 points on 60 test items, 95% interval +")
    assert tags["promotion.checks"] == "3 passed, 0 failed, 0 not applicable"
    last = history(root, "retrieval")[-1].to_json()
    assert (last["decision"], last["approved_by"], last["note"]) == ("promoted", "Ann", "looks right")
    assert {check["name"] for check in last["checks"]} == {"main_metric", "test_items", "test_videos"}
    assert_agreement(root)
    page = Project(root).verdict("retrieval").read_text()
    assert "approved by Ann" in page
    assert "+30.0 points on 60 test items" in page
    run_id = store.client.get_model_version(NAME, "2").run_id
    stored = Path(store.client.download_artifacts(run_id, "promotion/version-2.html"))
    assert "clipbert-retrieval version 2: promoted" in stored.read_text()


def test_a_decline_changes_nothing_and_is_recorded(waiting):
    made = promote(waiting, "retrieval", PERSON, approval=Approval(False, "Ann", "too few dogs"))
    assert (made.decision, made.champion, made.note) == ("declined", "1", "too few dogs")
    assert aliases(open_store(waiting), NAME) == {"candidate": "2", "champion": "1"}
    assert history(waiting, "retrieval")[-1].reason.endswith("declined by Ann: too few dogs")
    assert promote(waiting, "retrieval", PERSON).decision == "pending"


@pytest.mark.parametrize("change", ["candidate", "champion", "policy"])
def test_an_answer_about_what_has_changed_since_is_refused(waiting, release_embedded, predictions, change):
    shown = json.loads(decision_path(waiting, "retrieval").read_text())["id"]
    policy, before = PERSON, aliases(open_store(waiting), NAME)
    if change == "candidate":
        release_embedded(2, predictions(50))
        before["candidate"] = "3"
    elif change == "champion":
        open_store(waiting).client.delete_registered_model_alias(NAME, "champion")
        del before["champion"]
    else:
        policy = task_policy(approval="person", min_improvement=1.0)
    with pytest.raises(ClipBertError, match="changed after Ann was asked; nothing was changed"):
        promote(waiting, "retrieval", policy, approval=Approval(True, "Ann", pending=shown))
    assert aliases(open_store(waiting), NAME) == before


def test_nobody_is_asked_about_a_candidate_that_fails_or_is_the_champion(waiting, release_embedded, predictions):
    promote(waiting, "retrieval", PERSON, approval=Approval(True, "Ann"))
    assert promote(waiting, "retrieval", PERSON, ask=True).decision == "unchanged"
    late = promote(waiting, "retrieval", PERSON, approval=Approval(True, "Bob", pending="0" * 32))
    assert late.decision == "unchanged"
    release_embedded(3, predictions(20))
    assert promote(waiting, "retrieval", PERSON).decision == "rejected"
    refused = promote(waiting, "retrieval", PERSON, approval=Approval(True, "Bob"))
    assert refused.decision == "rejected"


def test_an_answer_needs_a_name_and_a_short_note(waiting):
    with pytest.raises(ClipBertError, match="--by: expected the name of the person"):
        promote(waiting, "retrieval", PERSON, approval=Approval(True, " "))
    with pytest.raises(ClipBertError, match="--note: expected at most 2000 characters"):
        promote(waiting, "retrieval", PERSON, approval=Approval(True, "Ann", "x" * 2000))


def test_a_failed_check_is_named_with_what_to_do(root, release_embedded, predictions):
    release_embedded(0, predictions(30))
    strict = task_policy(min_seeds=3, limits={"max_model_mb": 1.0})
    made = promote(root, "retrieval", strict.model_copy(update={"lineage": type(strict.lineage)()}))
    assert made.decision == "rejected"
    assert "size of the model: not recorded; required: at most 1 MB" in made.reason
    assert "Commit the code, params.yaml and dvc.lock" in made.reason
    assert "validated data: artifacts/validation/result.json is missing" in made.reason
    tags = open_store(root).client.get_model_version(NAME, "1").tags
    assert tags["promotion.check.seeds"].startswith("failed: 0 (none recorded) (required: at least 3)")
