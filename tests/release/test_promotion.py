import json
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from policies import task_policy

from clipbert.config.schema import EvaluateParams, Params
from clipbert.errors import ClipBertError
from clipbert.release.aliases import aliases
from clipbert.release.connection import open_store
from clipbert.release.promotion import decision_path, promote, rollback
from clipbert.release.registry import model_digest

NAME = "clipbert-retrieval"
GATE = task_policy()


def aliases_of(root: Path) -> dict[str, str]:
    return aliases(open_store(root), NAME)


def tags_of(root: Path, version: str) -> dict[str, str]:
    return open_store(root).client.get_model_version(NAME, version).tags


def no_evaluation(model_dir: Path, recorded: Mapping[str, Any]) -> pd.DataFrame:
    pytest.fail(f"{model_dir}: the champion was evaluated again")


def evaluated(items: pd.DataFrame) -> Callable[[Path, Mapping[str, Any]], pd.DataFrame]:
    """An evaluation that finds `items` with the conditions that it is asked for."""

    def evaluate(model_dir: Path, recorded: Mapping[str, Any]) -> pd.DataFrame:
        found = items.assign()
        found.attrs["evaluation"] = dict(recorded)
        return found

    return evaluate


def test_life_of_a_champion(any_root, release, predictions):
    """First promotion, no change, a worse, an equal and a better candidate, a rollback, and no second one."""
    root = any_root
    release(0, predictions(30))
    first = promote(root, "retrieval", GATE, evaluate_champion=no_evaluation)
    assert (first.decision, first.version, first.champion, first.against) == ("promoted", "1", "1", "chance")
    assert first.mean_difference == pytest.approx(0.4)
    assert 0 < first.low < 0.4 < first.high
    assert (first.items, first.mean_score, first.p_value) == (60, 0.5, pytest.approx(2 / 10_001))
    assert aliases_of(root) == {"candidate": "1", "champion": "1"}
    assert json.loads(decision_path(root, "retrieval").read_text()) == asdict(first)
    tags = tags_of(root, "1")
    assert tags["promotion.decision"] == "promoted"
    assert tags["promotion.against"] == "chance"
    assert float(tags["promotion.low"]) == first.low
    assert tags["promotion.by"] == first.by
    assert tags["promotion.at"] == first.at

    unchanged = promote(root, "retrieval", GATE)
    assert (unchanged.decision, unchanged.reason) == ("unchanged", "version 1 is the champion already")
    assert json.loads(decision_path(root, "retrieval").read_text()) == asdict(first)

    release(1, predictions(15))
    worse = promote(root, "retrieval", GATE, evaluate_champion=no_evaluation)
    assert (worse.decision, worse.version, worse.champion, worse.against) == ("rejected", "2", "1", "1")
    assert worse.high < 0
    assert "the interval must lie above 0" in worse.reason
    assert tags_of(root, "2")["promotion.decision"] == "rejected"

    release(2, predictions(30))
    equal = promote(root, "retrieval", GATE, evaluate_champion=no_evaluation)
    assert (equal.decision, equal.low, equal.high, equal.p_value) == ("rejected", 0.0, 0.0, 1.0)
    assert aliases_of(root) == {"candidate": "3", "champion": "1"}

    release(3, predictions(48))
    better = promote(root, "retrieval", GATE, evaluate_champion=no_evaluation)
    assert (better.decision, better.version, better.champion, better.against) == ("promoted", "4", "4", "1")
    assert better.mean_difference == pytest.approx(0.3)
    assert aliases_of(root) == {"candidate": "4", "champion": "4", "previous": "1"}

    back = rollback(root, "retrieval")
    assert (back.decision, back.version, back.champion) == ("rolled_back", "4", "1")
    assert aliases_of(root) == {"candidate": "4", "champion": "1"}
    assert json.loads(decision_path(root, "retrieval").read_text()) == asdict(back)
    tags = tags_of(root, "4")
    assert tags["promotion.decision"] == "rolled_back"
    assert float(tags["promotion.low"]) == better.low

    with pytest.raises(ClipBertError, match="version 1 is the champion, and there is no previous champion"):
        rollback(root, "retrieval")
    stays = promote(root, "retrieval", GATE, evaluate_champion=no_evaluation)
    assert (stays.decision, stays.champion) == ("rejected", "1")
    assert "version 4 was rolled back on" in stays.reason
    again = promote(root, "retrieval", GATE, evaluate_champion=no_evaluation, reconsider=True)
    assert (again.decision, again.champion) == ("promoted", "4")


@pytest.mark.parametrize("correct", [6, 9])
def test_first_model_has_to_beat_chance(root, release_embedded, predictions, correct):
    release_embedded(0, predictions(correct))
    decision = promote(root, "retrieval", GATE)
    assert (decision.decision, decision.champion, decision.against) == ("rejected", None, "chance")
    assert "version 1 differs from the strongest trivial baseline (chance, mean 0.1000) by" in decision.reason
    assert aliases_of(root) == {"candidate": "1"}


def test_gain_and_confidence_of_the_policy_decide(root, release_embedded, predictions):
    release_embedded(0, predictions(30))
    promote(root, "retrieval", GATE)
    release_embedded(1, predictions(36))
    demanding = promote(root, "retrieval", task_policy(min_improvement=5.0))
    assert demanding.decision == "rejected"
    assert demanding.low is not None
    assert 0 < demanding.low < 0.05
    assert promote(root, "retrieval", task_policy(confidence=0.9999)).decision == "rejected"
    assert promote(root, "retrieval", GATE).decision == "promoted"


def test_few_items_decide_nothing(root, release_embedded, predictions):
    release_embedded(0, predictions(12, items=12))
    decision = promote(root, "retrieval", GATE)
    assert decision.decision == "rejected"
    assert "fewer than 20 items are too few to compare models" in decision.reason


def test_champion_is_evaluated_again_on_other_test_items(root, release_embedded, make_model, predictions):
    release_embedded(0, predictions(30))
    promote(root, "retrieval", GATE)
    release_embedded(1, predictions(45, offset=100))
    seen: list[str] = []

    def evaluate(model_dir: Path, recorded: Mapping[str, Any]) -> pd.DataFrame:
        seen.append(model_digest(model_dir))
        return evaluated(predictions(30, offset=100).sample(frac=1.0, random_state=0))(model_dir, recorded)

    decision = promote(root, "retrieval", GATE, evaluate_champion=evaluate)
    assert seen == [model_digest(make_model("retrieval", 0))]
    assert decision.decision == "promoted"
    assert decision.mean_difference == pytest.approx(0.25)


def test_champion_is_evaluated_again_with_other_settings_or_data(root, release_embedded, predictions):
    release_embedded(0, predictions(30))
    promote(root, "retrieval", GATE)
    release_embedded(1, predictions(45), params=Params(evaluate=EvaluateParams(clips=8)))
    assert promote(root, "retrieval", GATE, evaluate_champion=evaluated(predictions(44))).decision == "rejected"
    (root / "data.dvc").write_text("outs: [{path: data, md5: 0123456789abcdef0123456789abcdef.dir}]")
    release_embedded(1, predictions(45))
    assert promote(root, "retrieval", GATE, evaluate_champion=evaluated(predictions(44))).decision == "rejected"


def test_champion_that_nobody_can_evaluate_again(root, release_embedded, predictions):
    release_embedded(0, predictions(30))
    promote(root, "retrieval", GATE)
    release_embedded(1, predictions(45, offset=100))
    with pytest.raises(ClipBertError, match="version 1, was evaluated under other conditions"):
        promote(root, "retrieval", GATE)
    stale = (
        r"version 2, cannot be compared: its evaluation and the present one differ \(test items\).*"
        "`clipbert evaluate retrieval`, then `clipbert register retrieval`"
    )
    with pytest.raises(ClipBertError, match=stale):
        promote(root, "retrieval", GATE, evaluate_champion=evaluated(predictions(30, offset=200)))
    assert aliases_of(root) == {"candidate": "2", "champion": "1"}


def test_champion_that_changes_during_the_comparison_stops_the_promotion(root, release_embedded, predictions):
    release_embedded(0, predictions(30))
    promote(root, "retrieval", GATE)
    release_embedded(1, predictions(45, offset=100))

    def evaluate(model_dir: Path, recorded: Mapping[str, Any]) -> pd.DataFrame:
        open_store(root).client.set_registered_model_alias(NAME, "champion", "2")
        return evaluated(predictions(30, offset=100))(model_dir, recorded)

    with pytest.raises(ClipBertError, match="its aliases changed while the models were compared; nothing was changed"):
        promote(root, "retrieval", GATE, evaluate_champion=evaluate)
    assert aliases_of(root) == {"candidate": "2", "champion": "2"}


def test_nothing_to_promote_or_roll_back(root, release_embedded, predictions):
    with pytest.raises(ClipBertError, match=r"no version has the alias candidate in sqlite:.*`clipbert register "):
        promote(root, "retrieval", GATE)
    with pytest.raises(ClipBertError, match=r"has no champion. Promote one: `clipbert promote retrieval`"):
        rollback(root, "retrieval")
    release_embedded(0, predictions(30))
    with pytest.raises(ClipBertError, match="has no champion"):
        rollback(root, "retrieval")
    assert not decision_path(root, "retrieval").exists()


def test_lost_or_broken_predictions(root, release_embedded, predictions):
    release_embedded(0, predictions(30))
    (stored,) = (root / "mlflow" / "artifacts").rglob("retrieval-*.parquet")
    kept = pd.read_parquet(stored)
    kept.assign(score=float("nan")).to_parquet(stored)
    with pytest.raises(ClipBertError, match=r"SHA-256 is \w+\.\.\., expected .* `clipbert register retrieval`"):
        promote(root, "retrieval", GATE)
    stored.unlink()
    with pytest.raises(
        ClipBertError, match=r"version 1: its predictions, .* are not in .* `clipbert register retrieval`"
    ):
        promote(root, "retrieval", GATE)
    release_embedded(0, predictions(40))
    assert promote(root, "retrieval", GATE).decision == "promoted"


def test_two_promotions_at_once_make_one_champion(root, release_embedded, predictions):
    release_embedded(0, predictions(30))
    with ThreadPoolExecutor(2) as pool:
        both = [pool.submit(promote, root, "retrieval", GATE) for _ in range(2)]
    assert sorted(future.result().decision for future in both) == ["promoted", "unchanged"]
    assert aliases_of(root) == {"candidate": "1", "champion": "1"}
