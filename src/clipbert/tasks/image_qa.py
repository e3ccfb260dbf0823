"""Visual question answering about images: several answers may be right, each with a score (VQA 2.0; paper, 4.1)."""

from typing import Any, ClassVar

import numpy as np
import pandas as pd
from torch import Tensor

from clipbert.config.tasks import ImageQAParams
from clipbert.evaluation.metrics.intervals import Ratio, Statistic
from clipbert.model.weights.card import CardText
from clipbert.tasks import register_task
from clipbert.tasks.base import Task
from clipbert.tasks.batch import Example, Predictions
from clipbert.tasks.open_qa import ANSWER_COLUMNS, COMPARED_WITH, OpenQAEvaluator, OpenQAExamples, OpenQAObjective
from clipbert.tasks.presentation import BLANK, CLIPS, TOP, Headline, Serving
from clipbert.tasks.questions import QuestionReport
from clipbert.text_normalization import normalize_text


class ImageQAExamples(OpenQAExamples):
    """Questions about images; the label is a score for each answer of the vocabulary.

    A question without scores in the data has one right answer, with the score 1.
    """

    media_kind = "image"

    def example(self, media: str, rows: pd.DataFrame, captions: list[str]) -> Example:
        example = super().example(media, rows, captions)
        columns = zip(rows["answers"], rows["answer_scores"], example.answers, strict=True)
        example.scores.extend(
            {normalize_text(answer): 1.0} if answers is None else _scores(answers, scores)
            for answers, scores, answer in columns
        )
        return example

    def labels(self, example: Example, chosen: list[int], config: Any) -> list[Any]:
        """Return the scores of the vocabulary's answers; right answers outside the vocabulary are lost."""
        answers = [normalize_text(answer) for answer in config.answers]
        return [[example.scores[i].get(answer, 0.0) for answer in answers] for i in chosen]


class ImageQAObjective(OpenQAObjective):
    """Binary cross-entropy with the scores of all answers, plus the contrastive loss where the images have captions."""

    def config_fields(self, train: list[Example]) -> dict[str, Any]:
        return super().config_fields(train) | {"answer_loss": "bce"}

    def num_labeled(self, labels: Tensor) -> Tensor | int:
        return len(labels)


class ImageQAEvaluator(OpenQAEvaluator):
    """VQA accuracy: the mean score of the predicted answers."""

    main_metric = "image_qa/accuracy"
    frame_conditions = False
    blank_frame_metrics: ClassVar[tuple[str, ...]] = ("image_qa/accuracy", "image_qa/exact")

    def score(self, example: Example, item: int, predicted: str, answers: list[str]) -> dict[str, Any]:
        scores = example.scores[item]
        return {
            "score": scores.get(normalize_text(predicted), 0.0),
            "exact": float(normalize_text(predicted) == normalize_text(example.answers[item])),
            "chance": sum(scores.get(normalize_text(answer), 0.0) for answer in answers) / len(answers),
            "right_answers": list(scores),
            "right_scores": list(scores.values()),
        }

    def statistics(self, items: Predictions) -> dict[str, Statistic]:
        """Return the metrics of open QA, and as `exact` the percentage of questions with the best answer."""
        return super().statistics(items) | {"image_qa/exact": Ratio(items["exact"], items["media"])}

    def training_answers(self, example: Example, item: int) -> dict[str, float]:
        return example.scores[item]

    def scores_of_answers(self, items: Predictions, given: list[str | None]) -> np.ndarray:
        columns = zip(items["right_answers"], items["right_scores"], given, strict=True)
        found = [dict(zip(answers, scores, strict=True)).get(answer, 0.0) for answers, scores, answer in columns]
        return np.asarray(found, dtype=float)


def _scores(answers: list[str], scores: list[float]) -> dict[str, float]:
    """Return the score of each normalized answer; of two spellings of one answer, the higher one."""
    found: dict[str, float] = {}
    for answer, score in zip(answers, scores, strict=True):
        key = normalize_text(answer)
        found[key] = max(score, found.get(key, 0.0))
    return found


class ImageQAReport(QuestionReport):
    """VQA accuracy, exact accuracy, and the share of test answers in the vocabulary."""

    title = "Question answering about images"
    paired_test = "wilcoxon"  # of scores between 0 and 1
    headlines = (
        Headline(
            "VQA accuracy",
            "accuracy",
            COMPARED_WITH,
            row="image QA accuracy, %",
        ),
        Headline("best answer", "exact", ((BLANK, "blank_frames_exact"),)),
        Headline("questions", "questions", percent=False),
        Headline("answers in vocabulary", "answer_coverage"),
    )
    baselines: ClassVar = {"majority_score": "majority answer"}


@register_task
class ImageQA(Task):
    """Answers a question about an image with an answer of its vocabulary."""

    name = "image_qa"
    params_class = ImageQAParams
    examples_class = ImageQAExamples
    objective_class = ImageQAObjective
    evaluator_class = ImageQAEvaluator
    report = ImageQAReport()
    card = CardText(
        title="question answering about images",
        about="It gives each answer in its config.json a score for a question about an image.",
        pipeline_tag="visual-question-answering",
        tags=(),
        metrics=("accuracy",),
        example='ask = pipeline("image_qa", "{folder}")\nask("a.png", "what color is the circle?")',
    )
    serving = Serving(
        inputs={"image": "string", "question": "string"},
        outputs=ANSWER_COLUMNS,
        example={"image": "data/images/example.jpg", "question": "what color is the square?"},
        params=CLIPS | TOP,
    )
