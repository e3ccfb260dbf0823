"""Checks of a promotion policy on tables of predictions."""

import numpy as np
import pandas as pd
import pytest
from policies import task_policy

from clipbert.config.promotion import LimitsPolicy
from clipbert.errors import ClipBertError
from clipbert.release.policy_checks import (
    guard_checks,
    headline_rows,
    limit_checks,
    main_check,
    main_difference,
    size_checks,
)

VIDEOS = 60


def questions(right: dict[str, int], per_type: int = VIDEOS) -> pd.DataFrame:
    """Answers to a question of each type about each video, of which the first `right` are right."""
    tables = []
    for kind, count in right.items():
        score = (np.arange(per_type) < count).astype(float)
        media = [f"v{number:03d}" for number in range(per_type)]
        names = [f"{kind}-{number:03d}" for number in range(per_type)]
        tables.append(pd.DataFrame({"item_id": names, "media": media, "answer_type": kind, "score": score}))
    return pd.concat(tables).assign(in_vocabulary=True, answer_rank=1.0).set_index("item_id", drop=False)


def of(checks, name):
    return next(check for check in checks if check.name == name)


def test_the_main_metric_is_compared_over_videos():
    """Items that come in equal copies of one video have the interval of the videos, not a narrower one."""
    policy = task_policy()
    single = questions({"color": 30}), questions({"color": 20})
    tripled = [pd.concat([table.assign(item_id=table.index + f"-{i}") for i in range(3)]) for table in single]
    intervals = []
    for items, other in (single, tripled):
        found = main_difference("open_qa", policy, items, other, seed=0)
        assert found.difference == pytest.approx(100 / 6)
        intervals.append((found.low, found.high))
    assert intervals[0] == pytest.approx(intervals[1], abs=1.0)


@pytest.mark.parametrize(
    ("changes", "outcome"),
    [
        ({}, "passed"),
        ({"min_improvement": 5.0}, "passed"),
        ({"min_improvement": 12.0}, "failed"),
        ({"min_improvement": 12.0, "test": "paired"}, "passed"),
        ({"min_improvement": 17.0, "test": "paired"}, "failed"),
        ({"confidence": 0.9999, "test": "paired"}, "failed"),
        ({"min_improvement": 12.0, "test": "both"}, "failed"),
    ],
)
def test_improvement_test_and_confidence_decide(changes, outcome):
    policy = task_policy(**changes)
    found = main_difference("open_qa", policy, questions({"color": 30}), questions({"color": 20}), seed=0)
    assert found.test == "McNemar"
    assert found.p_value == pytest.approx(2 * 0.5**10)  # ten items won, none lost
    check = main_check("open_qa", policy, found, against_baseline=False)
    assert check.outcome == outcome
    assert check.title == "accuracy"
    assert "+16.7 points on 60 test items" in check.found


def test_a_question_type_that_falls_clearly_fails_and_small_ones_are_not_judged():
    policy = task_policy(max_type_drop=5.0)
    better = {"color": 60, "count": 20, "shape": 30}
    items, other = questions(better), questions({"color": 10, "count": 40, "shape": 32})
    checks = guard_checks("open_qa", policy, items, other, seed=0)
    assert {check.name: check.outcome for check in checks} == {
        "guard.accuracy_color": "passed",
        "guard.accuracy_count": "failed",
        "guard.accuracy_shape": "passed",
    }
    count = of(checks, "guard.accuracy_count")
    assert count.numbers["difference"] == pytest.approx(-100 / 3)
    assert count.required == "the interval must reach -5"
    assert "98.33%" in count.found  # three intervals share the 5 %
    shape = of(guard_checks("open_qa", task_policy(max_type_drop=1.0, guard_test="difference"), items, other, 0),
               "guard.accuracy_shape")  # fmt: skip
    assert shape.outcome == "failed"
    few = guard_checks("open_qa", policy, questions({"a": 5, "b": 5}, 19), questions({"a": 15, "b": 5}, 19), seed=0)
    assert {check.outcome for check in few} == {"skipped"}
    assert "19 questions: fewer than 20 are not judged" in few[0].found


def test_guards_without_a_champion_or_question_types_do_not_apply():
    items = questions({"color": 30})
    (check,) = guard_checks("open_qa", task_policy(guards={"accuracy": 1.0}), items, None, seed=0)
    assert (check.outcome, check.found) == ("skipped", "no champion yet")
    (check,) = guard_checks("open_qa", task_policy(max_type_drop=1.0), items, items, seed=0)
    assert (check.outcome, check.found) == ("skipped", "the questions have one type or none")


def test_lower_ranks_are_better():
    ranks = np.tile([1.0, 2.0, 3.0, 9.0], 15)
    base = {"item_id": [f"t{i}" for i in range(VIDEOS)], "media": [f"v{i}" for i in range(VIDEOS)], "gallery": VIDEOS}
    tables = [
        pd.DataFrame({**base, "rank": values, "score": (values == 1).astype(float)}).set_index("item_id", drop=False)
        for values in (ranks + 5, ranks)
    ]
    policy = task_policy(metric="mean_rank", guards={"median_rank": 1.0})
    worse = main_difference("retrieval", policy, *tables, seed=0)
    assert (worse.difference, worse.gain[0]) == (5.0, -5.0)
    assert main_check("retrieval", policy, worse, False).outcome == "failed"
    better = main_difference("retrieval", policy, *tables[::-1], seed=0)
    assert main_check("retrieval", policy, better, False).outcome == "passed"
    assert guard_checks("retrieval", policy, *tables, seed=0)[0].outcome == "failed"
    assert guard_checks("retrieval", policy, *tables[::-1], seed=0)[0].outcome == "passed"


def test_unknown_metrics_are_named_with_the_field():
    items = questions({"color": 30})
    with pytest.raises(ClipBertError, match=r"mlflow/promotion.yaml: metric: open_qa has no metric 'r1'.*accuracy"):
        main_difference("open_qa", task_policy(metric="r1"), items, items, seed=0)
    with pytest.raises(ClipBertError, match=r"mlflow/promotion.yaml: guards.r5: open_qa has no metric"):
        guard_checks("open_qa", task_policy(guards={"r5": 1.0}), items, None, seed=0)


def test_limits_use_what_the_evaluation_measured():
    limits = LimitsPolicy(max_ms_per_item=10.0, max_slowdown=1.5, max_parameters=1000, max_model_mb=5.0)
    cost = {"ms_per_item": 8.0, "parameters": 2000.0}
    checks = limit_checks(limits, cost, {"ms_per_item": 4.0})
    assert {check.name: check.outcome for check in checks} == {
        "limit.max_ms_per_item": "passed",
        "limit.max_parameters": "failed",
        "limit.max_model_mb": "failed",
        "limit.max_slowdown": "failed",
    }
    assert of(checks, "limit.max_model_mb").found == "not recorded"
    assert of(checks, "limit.max_slowdown").found == "2 times"
    assert of(limit_checks(limits, cost, None), "limit.max_slowdown").outcome == "skipped"
    assert limit_checks(LimitsPolicy(), cost, None) == []


def test_few_videos_decide_nothing():
    items, other = questions({"a": 3, "b": 3}, 10), questions({"a": 0, "b": 0}, 10)
    assert [check.outcome for check in size_checks(task_policy(), items)] == ["passed", "passed"]
    few = size_checks(task_policy(min_test_videos=11), items)
    assert few[1].found == "10: fewer than 11 videos are too few to compare models"
    one = items.assign(media="v"), other.assign(media="v")
    alone = guard_checks("open_qa", task_policy(guards={"accuracy": 1.0}), *one, seed=0)
    assert alone[0].found == "one test video gives no interval"


def test_headlines_are_those_of_the_predictions_and_otherwise_of_the_registry():
    items, other = questions({"color": 30}), questions({"color": 20})
    registered = [{"accuracy": 1.0, "questions": 60.0}, {"accuracy": 2.0, "questions": 60.0}]
    rows = {row.name: row for row in headline_rows("open_qa", task_policy(), registered, items, other, seed=0)}
    assert (rows["accuracy"].candidate, rows["accuracy"].champion) == ("50.0 %", "33.3 %")
    assert rows["accuracy"].difference == "+16.7 points"
    assert (rows["questions"].candidate, rows["questions"].difference) == ("60", "")
