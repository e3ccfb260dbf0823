"""What the registry knows about a model and the champion, for its report."""

from pathlib import Path

import pytest
from policies import task_policy

from clipbert.release.promotion import promote
from clipbert.release.standing import Standing, standing

NAME = "clipbert-retrieval"


def test_a_project_without_a_store_gets_none(tmp_path: Path, make_model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert standing(tmp_path, "retrieval", make_model("retrieval", 0)) == Standing()
    assert list(tmp_path.iterdir()) == []


def test_a_store_that_cannot_be_read_gives_nothing(root: Path, make_model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    assert standing(root, "retrieval", make_model("retrieval", 0)) == Standing()


def test_version_champion_and_its_scores_are_found(root: Path, release_embedded, predictions, make_model) -> None:
    release_embedded(0, predictions(30))
    first, second = make_model("retrieval", 0), make_model("retrieval", 1)
    known = standing(root, "retrieval", first)
    assert (known.version, known.champion) == ((NAME, "1"), None)
    assert promote(root, "retrieval", task_policy()).decision == "promoted"
    known = standing(root, "retrieval", first)
    assert known.champion is not None
    assert known.champion.is_this_model

    other = standing(root, "retrieval", second)
    assert other.version is None
    assert other.champion is not None
    assert (other.champion.version, other.champion.is_this_model) == ("1", False)
    assert other.champion.scores is not None
    assert other.champion.scores.sum() == 30
    assert other.champion.conditions is not None
    assert other.champion.conditions["test_items"] == "of the test"
