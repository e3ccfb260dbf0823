"""What open-ended and multiple-choice question answering share."""

from typing import Any, ClassVar, Literal

import numpy as np
import pandas as pd

from clipbert.evaluation.metrics.answers import accuracy_by_type, type_names
from clipbert.evaluation.metrics.intervals import Ratio, Statistic
from clipbert.tasks.base import Evaluator
from clipbert.tasks.batch import Example, Predictions
from clipbert.tasks.examples import Examples
from clipbert.tasks.presentation import BarPlot, Report


def uses_captions(caption_weight: float, examples: list[Example]) -> bool:
    """Return whether the contrastive loss on captions is used: its weight is above 0, and each video has a caption."""
    return caption_weight > 0 and all(example.captions for example in examples)


class QuestionExamples(Examples):
    """Questions, of which a step draws `questions_per_video` of each video."""

    def uses_captions(self, examples: list[Example]) -> bool:
        return uses_captions(self.params.caption_weight, examples)

    def draw(self, example: Example, generator: np.random.Generator) -> list[int]:
        count = min(len(example.texts), self.params.questions_per_video)
        return [int(i) for i in generator.permutation(len(example.texts))[:count]]


class QuestionEvaluator(Evaluator):
    """Accuracy, over all questions and by answer type."""

    frame_conditions = True

    def statistics(self, items: Predictions) -> dict[str, Statistic]:
        """Return `accuracy` over all questions, and `accuracy_TYPE` by answer type if there are several types."""
        scores, media, kinds = items["score"].to_numpy(), items["media"].to_numpy(), items["answer_type"].to_numpy()
        found: dict[str, Statistic] = {f"{self.name}/accuracy": Ratio(scores, media)}
        for kind, name in type_names(kinds).items():
            found[f"{self.name}/{name}"] = Ratio(scores[kinds == kind], media[kinds == kind])
        return found

    def metrics(self, items: Predictions) -> dict[str, float]:
        found = {name: statistic.value() for name, statistic in self.statistics(items).items()}
        return found | {f"{self.name}/questions": float(len(items))}


class QuestionReport(Report):
    """Accuracy by answer type; the question, its answer and the predicted one."""

    plot: ClassVar = BarPlot("Accuracy by answer type", "by_type")
    paired_test: ClassVar[Literal["mcnemar", "wilcoxon"]] = "mcnemar"

    def tables(self, items: pd.DataFrame, blank_items: pd.DataFrame) -> dict[str, pd.DataFrame]:
        return {"by_type": accuracy_by_type(items, blank_items), "confusion": items[["answer", "predicted"]]}

    def lines(self, row: dict[str, Any]) -> list[str]:
        return [
            row["question"],
            f"answer: {row['answer']}",
            f"predicted: {row['predicted']} ({100 * row['confidence']:.0f} %)",
        ]
