"""Multiple choice: one text an option, questions with different numbers of options, the baselines."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from clipbert.config.tasks import MultipleChoiceParams
from clipbert.tasks.batch import Encoded, Example
from clipbert.tasks.multiple_choice import MultipleChoice


def example(media: str, *questions: tuple[str, list[str], int]) -> Example:
    rows = pd.DataFrame(questions, columns=["text", "options", "answer_index"])
    rows = rows.assign(
        id=[f"{media}-{i}" for i in range(len(rows))], answer=None, answer_type=["color", "count"][: len(rows)]
    )
    return MultipleChoice(MultipleChoiceParams()).examples.example(media, rows, [])


TWO = example("a", ("Which color?", ["red", "blue"], 1), ("How many?", ["one", "two", "three"], 0))


def test_an_option_is_read_with_its_question() -> None:
    task = MultipleChoice(MultipleChoiceParams())
    assert task.examples.input_texts(TWO, 1) == ["How many? one", "How many? two", "How many? three"]
    assert TWO.answers == ["blue", "one"]
    assert task.examples.labels(TWO, [1, 0], None) == [0, 1]


def test_a_step_draws_at_most_the_asked_number_of_questions() -> None:
    task = MultipleChoice(MultipleChoiceParams(questions_per_video=1))
    drawn = {tuple(task.examples.draw(TWO, np.random.default_rng(seed))) for seed in range(20)}
    assert drawn == {(0,), (1,)}


def test_captions_are_used_when_every_training_video_has_one() -> None:
    captioned = replace(TWO, captions=["a red square"])
    task = MultipleChoice(MultipleChoiceParams())
    assert task.objective.config_fields([captioned]) == {"projection_size": 128}
    assert task.objective.config_fields([captioned, TWO]) == {"projection_size": None}
    assert not MultipleChoice(MultipleChoiceParams(caption_weight=0.0)).examples.uses_captions([captioned])


class Chooser:
    """Prefers the option with the largest first token; stands where the model does, and notes what it was given."""

    def __init__(self) -> None:
        self.options: list[list[int]] = []

    def __call__(self, visual_embeds, input_ids, attention_mask, texts_per_video, options_per_question):  # type: ignore[no-untyped-def]
        assert texts_per_video.tolist() == options_per_question.tolist()
        assert len(visual_embeds) == len(options_per_question)
        self.options.append(options_per_question.tolist())
        logits = [scores.float() for scores in input_ids[:, 0].split(options_per_question.tolist())]
        padded = torch.nn.utils.rnn.pad_sequence(logits, batch_first=True, padding_value=float("-inf"))
        return SimpleNamespace(logits=padded)


def predictions(chooser: Chooser, batch_size: int) -> pd.DataFrame:
    liked = {"Which color? blue": 3, "How many? two": 2, "Which shape? ring": 9}

    def tokenize(texts: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
        ids = torch.tensor([[liked.get(text, 0)] for text in texts])
        return ids, torch.ones_like(ids)

    other = example("b", ("Which shape?", ["star", "cross", "circle", "ring"], 3))
    videos = Encoded(["a", "b"], [torch.zeros(1, 1, 1), torch.ones(1, 1, 1)])
    rows = MultipleChoice(MultipleChoiceParams()).evaluator.predict(chooser, videos, [TWO, other], tokenize, batch_size)
    return pd.DataFrame(rows)


@pytest.mark.parametrize(("batch_size", "batches"), [(1, [[2], [3], [4]]), (5, [[2, 3], [4]]), (100, [[2, 3, 4]])])
def test_a_batch_holds_whole_questions_and_no_more_options_than_asked(
    batch_size: int, batches: list[list[int]]
) -> None:
    chooser = Chooser()
    items = predictions(chooser, batch_size)
    assert chooser.options == batches
    assert items["predicted"].tolist() == ["blue", "two", "ring"]
    assert items["score"].tolist() == [1.0, 0.0, 1.0]


def test_metrics_and_baselines() -> None:
    items, task = predictions(Chooser(), 100), MultipleChoice(MultipleChoiceParams())
    assert task.evaluator.metrics(items) == {
        "multiple_choice/accuracy": pytest.approx(200 / 3),
        "multiple_choice/questions": 3.0,
        "multiple_choice/accuracy_color": 100.0,
        "multiple_choice/accuracy_count": 0.0,
    }
    baselines = task.evaluator.baselines(items, [TWO, TWO, example("c", ("?", ["x", "y"], 1))])
    assert baselines == {
        "multiple_choice/chance_accuracy": pytest.approx(100 * (1 / 2 + 1 / 3 + 1 / 4) / 3),
        "multiple_choice/majority_accuracy": pytest.approx(100 / 3),
        # the training answers are blue, one and y; of the four unknown shapes a random one is chosen
        "multiple_choice/frequent_option_accuracy": pytest.approx(100 * (1 + 1 + 1 / 4) / 3),
        "multiple_choice/question_only_accuracy": pytest.approx(100 * (1 + 1 + 1 / 4) / 3),
    }


def test_the_option_that_is_right_most_often_in_training_scores_by_item() -> None:
    items = pd.DataFrame({"options": [["x", "y"], ["y", "z", "w"], ["p", "q"]], "right": [1, 0, 0], "question": "?"})
    train = [example("a", ("?", ["x", "y"], 1)), example("b", ("?", ["y", "x"], 0)), example("c", ("?", ["x", "z"], 0))]
    scores = MultipleChoice(MultipleChoiceParams()).evaluator.baseline_scores(items, train)
    assert scores["frequent_option"].tolist() == [1.0, 1.0, 0.5]  # of options never seen, a random one
    assert scores["majority"].tolist() == [0.0, 1.0, 1.0]


def test_a_type_becomes_the_name_of_a_metric_that_a_tracker_takes() -> None:
    items = pd.DataFrame({"answer_type": ["yes/no?", "other"], "score": [1.0, 0.0], "media": ["a", "b"]})
    assert "multiple_choice/accuracy_yes_no_" in MultipleChoice(MultipleChoiceParams()).evaluator.metrics(items)
    alone = items.assign(answer_type="all")
    assert set(MultipleChoice(MultipleChoiceParams()).evaluator.metrics(alone)) == {
        "multiple_choice/accuracy",
        "multiple_choice/questions",
    }


def test_kinds_of_questions_in_any_script_have_a_metric_each() -> None:
    items = pd.DataFrame(
        {
            "answer_type": ["\u6570\u91cf", "\u989c\u8272", "\u989c\u8272", "a b", "a-b"],
            "score": [1.0, 0.0, 1.0, 1.0, 0.0],
            "media": ["a", "a", "b", "b", "c"],
        }
    )
    found = MultipleChoice(MultipleChoiceParams()).evaluator.metrics(items)
    assert found["multiple_choice/accuracy_\u6570\u91cf"] == 100.0
    assert found["multiple_choice/accuracy_\u989c\u8272"] == 50.0
    assert sorted(found["multiple_choice/" + name] for name in ("accuracy_a_b", "accuracy_a_b_4")) == [0.0, 100.0]
