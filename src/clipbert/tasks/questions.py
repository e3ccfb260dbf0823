"""What open-ended and multiple-choice question answering share."""

from typing import Any, ClassVar

import numpy as np
import pandas as pd

from clipbert.tasks.batch import Example
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


class QuestionReport(Report):
    """Accuracy by answer type; the question, its answer and the predicted one."""

    plot: ClassVar = BarPlot("Accuracy by answer type", "by_type")

    def tables(self, items: pd.DataFrame, blank_items: pd.DataFrame) -> dict[str, pd.DataFrame]:
        return {"by_type": accuracy_by_type(items, blank_items), "confusion": items[["answer", "predicted"]]}

    def lines(self, row: dict[str, Any]) -> list[str]:
        return [
            row["question"],
            f"answer: {row['answer']}",
            f"predicted: {row['predicted']} ({100 * row['confidence']:.0f} %)",
        ]


def accuracy_by_type(items: pd.DataFrame, blank_items: pd.DataFrame) -> pd.DataFrame:
    """Return answer_type, questions, accuracy and blank_frames, both in percent; the most frequent type first."""
    kinds = items["answer_type"]
    grouped = items.groupby(kinds)["score"]
    blank = blank_items["score"].groupby(kinds).mean()
    table = pd.DataFrame(
        {"questions": grouped.size(), "accuracy": 100 * grouped.mean(), "blank_frames": 100 * blank}
    ).reset_index(names="answer_type")
    return table.sort_values(["questions", "answer_type"], ascending=[False, True], ignore_index=True)
