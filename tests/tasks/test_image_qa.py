"""Image QA: soft scores as labels, VQA accuracy, the baseline."""

from types import SimpleNamespace

import pandas as pd
import pytest
import torch

from clipbert.config.tasks import ImageQAParams
from clipbert.model import ClipBertForOpenQA
from clipbert.tasks.batch import Encoded, Example
from clipbert.tasks.image_qa import ImageQA


def example(*scores: dict[str, float]) -> Example:
    ids = [f"q{i}" for i in range(len(scores))]
    best = [max(some, key=some.__getitem__) for some in scores]
    return Example("i.jpg", ids, ids, best, ["color"] * len(scores), scores=list(scores))


def rows(*answers: tuple[str, list[str] | None, list[float] | None]) -> pd.DataFrame:
    table = pd.DataFrame(answers, columns=["answer", "answers", "answer_scores"])
    return table.assign(id=[f"q{i}" for i in range(len(table))], text="?", answer_type=None)


def test_scores_are_the_datas_or_one_for_the_single_answer() -> None:
    made = ImageQA(ImageQAParams()).examples.example(
        "i.jpg", rows(("red", ["red", "pink"], [1.0, 0.3]), ("two", None, None)), []
    )
    assert made.scores == [{"red": 1.0, "pink": 0.3}, {"two": 1.0}]
    assert made.answers == ["red", "two"]


def test_the_model_learns_by_binary_cross_entropy() -> None:
    task = ImageQA(ImageQAParams(max_answers=2))
    fields = task.objective.config_fields([example({"red": 1.0, "pink": 0.3}, {"two": 0.9}, {"two": 1.0})])
    assert fields == {"answers": ["two", "red"], "projection_size": None, "answer_loss": "bce"}
    assert task.objective.model_class is ClipBertForOpenQA


def test_labels_hold_a_score_for_each_answer_of_the_vocabulary() -> None:
    config = SimpleNamespace(answers=["red", "blue", "two"], answer_loss="bce")
    asked = example({"red": 1.0, "pink": 0.3}, {"blue": 0.6, "two": 0.9}, {"pink": 1.0})
    assert ImageQA(ImageQAParams()).examples.labels(asked, [1, 0, 2], config) == [[0, 0.6, 0.9], [1.0, 0, 0], [0, 0, 0]]


class Answerer:
    """Gives the answer whose number is the first token; stands where the model does."""

    config = SimpleNamespace(answers=["red", "blue", "two"], answer_loss="bce")

    def __call__(self, visual_embeds, input_ids, attention_mask, texts_per_video):  # type: ignore[no-untyped-def]
        return SimpleNamespace(logits=5.0 * torch.nn.functional.one_hot(input_ids[:, 0], 3).float())


def predictions(asked: Example, answers: list[int]) -> pd.DataFrame:
    """What comes out when the model answers the questions with these."""

    def tokenize(texts: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
        ids = torch.tensor([[answers[asked.texts.index(text)]] for text in texts])
        return ids, torch.ones_like(ids)

    videos = Encoded(["i.jpg"], [torch.zeros(1, 1, 1)])
    return pd.DataFrame(ImageQA(ImageQAParams()).evaluator.predict(Answerer(), videos, [asked], tokenize, batch_size=2))


def test_vqa_accuracy_is_what_the_predicted_answers_are_worth() -> None:
    asked = example({"red": 1.0, "blue": 0.3}, {"blue": 0.9, "two": 0.6}, {"pink": 1.0})
    items = predictions(asked, [1, 1, 0])
    assert items["score"].tolist() == [0.3, 0.9, 0.0]
    assert items["predicted"].tolist() == ["blue", "blue", "red"]
    assert items["confidence"].tolist() == pytest.approx([torch.tensor(5.0).sigmoid().item()] * 3)
    assert items["chance"].tolist() == pytest.approx([1.3 / 3, 1.5 / 3, 0])
    metrics = ImageQA(ImageQAParams()).evaluator.metrics(items)
    assert metrics == {
        "image_qa/accuracy": pytest.approx(40.0),
        "image_qa/exact": pytest.approx(100 / 3),
        "image_qa/top5_accuracy": pytest.approx(200 / 3),
        "image_qa/answer_coverage": pytest.approx(200 / 3),
        "image_qa/out_of_vocabulary": pytest.approx(100 / 3),
        "image_qa/questions": 3.0,
    }


def test_the_majority_answer_is_worth_its_scores() -> None:
    asked = example({"red": 1.0, "blue": 0.3}, {"blue": 0.9, "two": 0.6}, {"pink": 1.0})
    train = [example({"red": 1.0, "blue": 0.9}, {"two": 1.0, "blue": 0.9})]
    task, items = ImageQA(ImageQAParams()), predictions(asked, [0, 0, 0])
    assert task.evaluator.baseline_scores(items, train)["majority"].tolist() == [0.3, 0.9, 0.0]
    baselines = task.evaluator.baselines(items, train)
    assert baselines["image_qa/majority_accuracy"] == pytest.approx(100 * (0.3 + 0.9) / 3)
    assert baselines["image_qa/chance_accuracy"] == pytest.approx(100 * 2.8 / 9)
