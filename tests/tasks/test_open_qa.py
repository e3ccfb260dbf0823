"""Open-ended QA: the answer vocabulary, what is drawn, the baselines."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from clipbert.config.tasks import OpenQAParams
from clipbert.errors import ClipBertError
from clipbert.tasks.batch import Example
from clipbert.tasks.open_qa import IGNORED, OpenQA


def example(*answers: str) -> Example:
    count = len(answers)
    return Example("v", [f"q{i}" for i in range(count)], ["?"] * count, list(answers), ["color"] * count)


def test_the_vocabulary_holds_the_most_frequent_answers_ties_in_alphabetical_order() -> None:
    task = OpenQA(OpenQAParams(max_answers=3))
    fields = task.objective.config_fields([example("red", "blue", "red"), example("two", "blue", "ant")])
    assert fields == {"answers": ["blue", "red", "ant"], "projection_size": None}


def test_spellings_of_an_answer_are_one_answer() -> None:
    task = OpenQA(OpenQAParams())
    composed, decomposed = "L\u00f6we", "Lo\u0308we"
    train = [example(composed, decomposed, "l\u00f6we", composed), example("Stra\u00dfe", "STRASSE")]
    answers = task.objective.config_fields(train)["answers"]
    assert answers == [composed, "STRASSE", "Stra\u00dfe"]
    config = SimpleNamespace(answers=answers)
    assert task.examples.labels(example(decomposed, "L\u00d6WE", "strasse", "lowe"), [0, 1, 2, 3], config) == [
        0,
        0,
        1,
        IGNORED,
    ]
    assert task.evaluator.score(example(decomposed), 0, composed, answers)["score"] == 1.0
    assert task.evaluator.score(example("lowe"), 0, composed, answers)["score"] == 0.0
    items = pd.DataFrame({"answer": [decomposed, "Strasse"], "chance": [0.5, 0.5], "question": "?"})
    assert task.evaluator.baselines(items, train)["open_qa/majority_accuracy"] == 50.0


def test_captions_are_used_when_every_training_video_has_one() -> None:
    captioned = replace(example("red", "blue"), captions=["a red square"])
    assert OpenQA(OpenQAParams()).examples.uses_captions([captioned, captioned])
    assert not OpenQA(OpenQAParams()).examples.uses_captions([captioned, example("red")])
    assert not OpenQA(OpenQAParams(caption_weight=0.0)).examples.uses_captions([captioned])
    assert OpenQA(OpenQAParams()).objective.config_fields([captioned])["projection_size"] == 128


def test_one_answer_is_not_enough() -> None:
    with pytest.raises(ClipBertError, match=r"have 1 different answer\(s\); expected at least 2"):
        OpenQA(OpenQAParams()).objective.config_fields([example("red", "red")])


def test_answers_outside_the_vocabulary_teach_nothing() -> None:
    config = SimpleNamespace(answers=["red", "blue"])
    assert OpenQA(OpenQAParams()).examples.labels(example("blue", "green", "red"), [0, 1, 2], config) == [1, IGNORED, 0]


def test_a_step_draws_at_most_the_asked_number_of_questions_and_never_one_twice() -> None:
    task = OpenQA(OpenQAParams(questions_per_video=2))
    drawn = [task.examples.draw(example("a", "b", "c"), np.random.default_rng(seed)) for seed in range(50)]
    assert {len(some) for some in drawn} == {2}
    assert all(len(set(some)) == 2 for some in drawn)
    assert {i for some in drawn for i in some} == {0, 1, 2}


def test_baselines_use_the_training_majority() -> None:
    items = pd.DataFrame({"answer": ["red", "red", "blue", "green"], "chance": [0.25] * 4, "question": "another one"})
    task, train = OpenQA(OpenQAParams()), [example("red", "red", "blue")]
    assert task.evaluator.baselines(items, train) == {
        "open_qa/chance_accuracy": 25.0,
        "open_qa/majority_accuracy": 50.0,
        "open_qa/question_only_accuracy": 50.0,
    }
    assert task.evaluator.baseline_scores(items, train)["majority"].tolist() == [1.0, 1.0, 0.0, 0.0]


def test_a_question_alone_is_answered_as_the_same_question_in_training() -> None:
    questions = ["which tone?", "what now?", "how is it?", "how is it?"]
    asked = replace(example("red", "red", "blue", "blue"), texts=questions)
    items = pd.DataFrame(
        {"answer": ["blue", "red", "Blue"], "chance": 0.5, "question": ["how is it?", "what now?", "which tone?"]}
    )
    scores = OpenQA(OpenQAParams()).evaluator.baseline_scores(items, [asked])
    assert scores["question_only"].tolist() == [1.0, 1.0, 0.0]
    assert scores["majority"].tolist() == [1.0, 0.0, 1.0]
