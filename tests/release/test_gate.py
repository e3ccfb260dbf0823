"""What is compared with what: conditions, digests of predictions, trivial baselines."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from policies import task_policy

from clipbert.config.schema import EvaluateParams, Params
from clipbert.errors import ClipBertError
from clipbert.evaluation import conditions
from clipbert.release.connection import open_store
from clipbert.release.promotion import promote

NAME = "clipbert-retrieval"
GATE = task_policy()
RERANKED = Params(evaluate=EvaluateParams(rerank_top_k=2))


class Evaluation:
    """Evaluates the champion: remembers the conditions asked for and finds `items` under them."""

    def __init__(self, items: pd.DataFrame) -> None:
        self.items, self.asked = items, list[Mapping[str, Any]]()

    def __call__(self, model_dir: Path, recorded: Mapping[str, Any]) -> pd.DataFrame:
        self.asked.append(recorded)
        found = self.items.assign()
        found.attrs["evaluation"] = dict(recorded)
        return found


@pytest.fixture
def champion(root, release_embedded, predictions):
    """A project with a champion, version 1, that is right on 30 of 60 items."""
    release_embedded(0, predictions(30))
    assert promote(root, "retrieval", GATE).decision == "promoted"
    return root


def test_champion_is_evaluated_with_the_candidates_reranking(champion, release_embedded, predictions):
    release_embedded(1, predictions(45), params=RERANKED)
    evaluate = Evaluation(predictions(44))
    assert promote(champion, "retrieval", GATE, evaluate_champion=evaluate).decision == "rejected"
    assert [asked["rerank"] for asked in evaluate.asked] == [2]
    default = Params()
    _, settings = conditions.with_conditions("retrieval", default.tasks.retrieval, default.evaluate, evaluate.asked[0])
    assert (settings.rerank_top_k, settings.clips) == (2, 2)


def test_champion_is_evaluated_again_when_the_scoring_code_or_the_frames_changed(
    champion, release_embedded, predictions, monkeypatch
):
    evaluate = Evaluation(predictions(44))
    with monkeypatch.context() as patch:
        patch.setattr(conditions, "SCORING_VERSION", conditions.SCORING_VERSION + 1)
        release_embedded(1, predictions(45))
        promote(champion, "retrieval", GATE, evaluate_champion=evaluate)
    release_embedded(1, predictions(45), params=Params.model_validate({"frames": {"fps": 4.0}}))
    promote(champion, "retrieval", GATE, evaluate_champion=evaluate)
    now, later = conditions.SCORING_VERSION, conditions.SCORING_VERSION + 1
    assert [(asked["scoring"], asked["frames.fps"]) for asked in evaluate.asked] == [(later, 2.0), (now, 4.0)]


def test_a_reevaluation_under_other_conditions_is_refused(champion, release_embedded, predictions):
    release_embedded(1, predictions(45), params=RERANKED)

    def careless(model_dir: Path, recorded: Mapping[str, Any]) -> pd.DataFrame:
        found = predictions(10)
        found.attrs["evaluation"] = {**recorded, "rerank": None}
        return found

    with pytest.raises(
        ClipBertError, match=r"the present one differ \(rerank: 2, None\).*`clipbert register retrieval`"
    ):
        promote(champion, "retrieval", GATE, evaluate_champion=careless)


def altered(root: Path, version: str) -> None:
    """Give every item of a version's stored predictions the score 1."""
    digest = open_store(root).client.get_model_version(NAME, version).tags["digest"]
    (stored,) = (root / "mlflow" / "artifacts").rglob(f"retrieval-{digest[:12]}.parquet")
    pd.read_parquet(stored).assign(score=1.0).to_parquet(stored)


def test_altered_predictions_of_the_candidate_are_refused_until_registered_again(
    champion, release_embedded, predictions
):
    release_embedded(1, predictions(15))
    altered(champion, "2")
    with pytest.raises(ClipBertError, match=r"version 2: its predictions.*SHA-256.*`clipbert register retrieval`"):
        promote(champion, "retrieval", GATE)
    release_embedded(1, predictions(15))  # the same files and numbers: the predictions are uploaded again
    assert promote(champion, "retrieval", GATE).decision == "rejected"


def test_altered_predictions_of_the_champion_are_refused_until_it_is_evaluated_again(
    champion, release_embedded, predictions
):
    release_embedded(1, predictions(48))
    altered(champion, "1")
    message = r"version 1, the champion: its predictions.*SHA-256.*`clipbert promote retrieval --reevaluate`"
    with pytest.raises(ClipBertError, match=message):
        promote(champion, "retrieval", GATE)
    evaluate = Evaluation(predictions(30))
    assert promote(champion, "retrieval", GATE, evaluate_champion=evaluate, reevaluate=True).decision == "promoted"


@pytest.mark.parametrize(("column", "words"), [("majority_score", "majority answer"), ("blank_frames_score", "blank")])
def test_first_champion_has_to_beat_the_strongest_trivial_baseline(root, release_embedded, predictions, column, words):
    items = predictions(30)
    release_embedded(0, items.assign(**{column: items["score"]}), task="open_qa")
    decision = promote(root, "open_qa", GATE)
    assert (decision.decision, decision.champion, decision.mean_difference) == ("rejected", None, 0.0)
    assert words in str(decision.against)
    assert f"the strongest trivial baseline ({decision.against}, mean 0.5000)" in decision.reason


@pytest.mark.parametrize("old", ["columns", "conditions"])
def test_predictions_of_an_older_version_name_the_commands(root, release_embedded, predictions, old):
    items = predictions(30)
    if old == "columns":
        items = items.drop(columns="blank_frames_score")
    else:
        items.attrs["evaluation"] = {}
    release_embedded(0, items)
    with pytest.raises(ClipBertError, match="older version of clipbert") as caught:
        promote(root, "retrieval", GATE)
    assert "`clipbert evaluate retrieval`, then `clipbert register retrieval`" in str(caught.value)
