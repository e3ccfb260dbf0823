"""Visual question answering about images: several answers may be right, each worth a score (VQA 2.0, paper 4.1)."""

from collections import Counter
from typing import Any, ClassVar

import numpy as np
import pandas as pd
from torch import Tensor

from clipbert.config.tasks import ImageQAParams
from clipbert.tasks.base import Example, Predictions
from clipbert.tasks.open_qa import OpenQA
from clipbert.text_normalization import normalize_text


class ImageQA(OpenQA):
    """A question and its image in, one answer out, worth the score that the data gives it.

    Trained by binary cross entropy with the scores of all answers; a question without scores has one right answer.
    """

    name = "image_qa"
    media_kind = "image"
    main_metric = "image_qa/accuracy"
    compared: ClassVar[tuple[str, ...]] = ("image_qa/accuracy", "image_qa/exact")
    params: ImageQAParams

    def example(self, media: str, rows: pd.DataFrame, captions: list[str]) -> Example:
        example = super().example(media, rows, captions)
        told = zip(rows["answers"], rows["answer_scores"], example.answers, strict=True)
        example.scores.extend(
            {normalize_text(answer): 1.0} if answers is None else _scores(answers, scores)
            for answers, scores, answer in told
        )
        return example

    def config_fields(self, train: list[Example]) -> dict[str, Any]:
        return super().config_fields(train) | {"answer_loss": "bce"}

    def labels(self, example: Example, chosen: list[int], config: Any) -> list[Any]:
        """A row of scores a question, one for each of the model's answers; those outside its vocabulary are lost."""
        answers = [normalize_text(answer) for answer in config.answers]
        return [[example.scores[i].get(answer, 0.0) for answer in answers] for i in chosen]

    def counted(self, labels: Tensor) -> Tensor | int:
        return len(labels)

    def scored(self, example: Example, item: int, predicted: str, answers: list[str]) -> dict[str, Any]:
        scores = example.scores[item]
        return {
            "score": scores.get(normalize_text(predicted), 0.0),
            "exact": float(normalize_text(predicted) == normalize_text(example.answers[item])),
            "chance": sum(scores.get(normalize_text(answer), 0.0) for answer in answers) / len(answers),
            "right_answers": list(scores),
            "right_scores": list(scores.values()),
        }

    def metrics(self, items: Predictions) -> dict[str, float]:
        """`accuracy` is VQA accuracy, the mean score; `exact` counts the best answer alone."""
        return super().metrics(items) | {"image_qa/exact": 100 * float(items["exact"].mean())}

    def baseline_scores(self, items: Predictions, train: list[Example]) -> dict[str, np.ndarray]:
        """Return the scores of the answer that is worth most over all training questions, given to every question."""
        worth: Counter[str] = Counter()
        for example in train:
            for scores in example.scores:
                worth.update(scores)
        majority = min(worth, key=lambda answer: (-worth[answer], answer))
        told = zip(items["right_answers"], items["right_scores"], strict=True)
        gained = [dict(zip(answers, values, strict=True)).get(majority, 0.0) for answers, values in told]
        return {"majority": np.asarray(gained, dtype=float)}


def _scores(answers: list[str], scores: list[float]) -> dict[str, float]:
    """The score of each normalized answer; of two spellings of one answer, the higher one."""
    found: dict[str, float] = {}
    for answer, score in zip(answers, scores, strict=True):
        key = normalize_text(answer)
        found[key] = max(score, found.get(key, 0.0))
    return found
