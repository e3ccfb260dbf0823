"""Metrics of answers against brute force, torchmetrics and the official VQA evaluation's definition."""

from collections import Counter
from itertools import combinations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torchmetrics.classification import MulticlassAccuracy

from clipbert.evaluation.metrics import answers


@given(st.lists(st.sampled_from("abc"), min_size=1, max_size=10), st.sampled_from("abc"))
def test_the_vqa_score_leaves_each_annotator_out_once(given_answers: list[str], answer: str) -> None:
    count = Counter(given_answers)[answer]
    scores = [
        min(1.0, sum(given_answers[i] == answer for i in others) / 3)
        for others in combinations(range(len(given_answers)), len(given_answers) - 1)
    ]
    assert answers.vqa_score(count, len(given_answers)) == pytest.approx(sum(scores) / len(scores))


def test_the_vqa_score_of_ten_annotators_is_the_published_table() -> None:
    table = [answers.vqa_score(count, 10) for count in range(11)]
    assert table == pytest.approx([0, 0.3, 0.6, 0.9, 1, 1, 1, 1, 1, 1, 1])


@given(st.integers(2, 9).flatmap(lambda n: st.tuples(st.lists(st.permutations(range(n)), min_size=1), st.just(n))))
def test_top_k_agrees_with_torchmetrics(case: tuple[list[list[int]], int]) -> None:
    rows, classes = case
    probabilities = np.array(rows, dtype=np.float32)
    right = np.array([row[0] for row in rows])
    ranks = answers.answer_ranks(probabilities, right)
    for k in {1, min(5, classes)}:
        metric = MulticlassAccuracy(num_classes=classes, average="micro", top_k=k)
        expected = float(metric(torch.tensor(probabilities), torch.tensor(right)))
        assert answers.top_k_accuracy(ranks, k) == pytest.approx(100 * expected)
        assert 100 * float((ranks <= k).mean()) == pytest.approx(100 * expected)


def test_an_answer_outside_the_vocabulary_has_no_rank() -> None:
    ranks = answers.answer_ranks([[0.2, 0.5, 0.3], [0.4, 0.4, 0.2], [0.1, 0.2, 0.7]], [0, 1, -1])
    assert ranks.tolist() == [3, 1.5, np.inf]
    assert answers.top_k_accuracy(ranks, 5) == pytest.approx(200 / 3)


def test_types_have_names_that_a_metric_can_have() -> None:
    assert answers.type_names(["color", "color"]) == {}
    names = answers.type_names(["what color?", "what color?", "what_color", "数量"])
    assert names == {
        "what color?": "accuracy_what_color_",
        "what_color": "accuracy_what_color",
        "数量": "accuracy_数量",
    }
    assert answers.type_names(["a b", "a b", "a?b"]) == {"a b": "accuracy_a_b", "a?b": "accuracy_a_b_2"}


def test_a_question_alone_suggests_the_answer_of_the_same_question_then_of_its_type() -> None:
    questions = ["what color is it", "what color is it", "what color has the sky", "how many are there"]
    prior = answers.PriorAnswers(questions, [{"red": 1.0}, {"red": 1.0}, {"blue": 9.0}, {"two": 99.0}])
    assert prior.answer("What  color is it") == "red"
    assert prior.answer("what color is that") == "blue"  # 9 of 11 for questions that begin with "what color"
    assert prior.answer("why") == "two"
    assert answers.PriorAnswers([], []).answer("why") is None
