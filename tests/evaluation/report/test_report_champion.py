"""The difference to the champion: a sentence derived from the interval, or the reason why there is none."""

import numpy as np
import pandas as pd
import pytest

from clipbert.config.schema import Params
from clipbert.evaluation.conditions import conditions
from clipbert.evaluation.report.champion import Champion, difference

DEFAULTS = Params()
CONDITIONS = conditions("retrieval", DEFAULTS.tasks.retrieval, DEFAULTS.evaluate, DEFAULTS.frames) | {
    "test_items": "abc"
}


def items(right: int, count: int = 60) -> pd.DataFrame:
    score = (np.arange(count) < right).astype(float)
    found = pd.DataFrame({"item_id": [f"t{i}" for i in range(count)], "score": score})
    found["media"] = [f"videos/{i}.mp4" for i in range(count)]
    found.attrs["evaluation"] = dict(CONDITIONS)
    return found


def champion(right: int, **changes: object) -> Champion:
    scores = items(right).set_index("item_id")["score"].sample(frac=1, random_state=0)  # in another order
    return Champion("7", False, scores, CONDITIONS | changes)


@pytest.mark.parametrize(
    ("own", "other", "kind", "sentence"),
    [
        (45, 30, "good", "Better than the champion, version 7: 75 % against 50 %, a gain of 15 to 37 points"),
        (30, 45, "bad", "Worse than the champion, version 7: 50 % against 75 %, a difference of -35 to -15 points"),
        (31, 30, "unclear", "Cannot tell whether it is better than the champion, version 7: 52 % against 50 %"),
    ],
)
def test_the_sentence_follows_the_interval(own: int, other: int, kind: str, sentence: str) -> None:
    found = difference("retrieval", items(own), champion(other))
    assert found is not None
    assert found.kind == kind
    assert found.text.startswith(sentence[:70])
    won, lost = max(own - other, 0), max(other - own, 0)
    assert found.text.endswith(f"better on {won} of 60 test items, worse on {lost}.")


def test_without_a_champion_nothing_is_said_and_the_champion_itself_is_named() -> None:
    assert difference("retrieval", items(30), None) is None
    found = difference("retrieval", items(30), Champion("7", is_this_model=True))
    assert found is not None
    assert found.text == "This model is the champion, version 7."


def test_other_conditions_items_or_lost_predictions_are_not_compared() -> None:
    unlike = difference("retrieval", items(45), champion(30, clips=4, test_items="def"))
    assert unlike is not None
    assert "was evaluated otherwise (clips: 2, 4; test items)" in unlike.text
    fewer = difference("retrieval", items(45).head(59), champion(30))
    assert fewer is not None
    assert fewer.kind == "note"
    assert "test items: 59, 60" in fewer.text
    lost = difference("retrieval", items(45), Champion("7"))
    assert lost is not None
    assert lost.text == "Not compared with the champion, version 7: its predictions cannot be read."
