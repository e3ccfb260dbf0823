"""Metrics of question answering and multiple choice: accuracy by type, top k, vocabulary, soft VQA scores."""

from collections.abc import Hashable, Iterable, Mapping

import numpy as np
import pandas as pd
import regex
from numpy.typing import ArrayLike

MAX_TYPES = 20  # the most frequent answer types have a metric each
ANNOTATORS = 3  # who agree make an answer right
NOT_IN_A_NAME = regex.compile(r"[^\p{L}\p{N}]+")  # MLflow's names of metrics allow letters of any script, no marks


def accuracy(scores: ArrayLike) -> float:
    """Return the mean score (0 to 1) in percent."""
    return 100 * float(np.mean(np.asarray(scores, dtype=np.float64)))


def answer_ranks(probabilities: ArrayLike, right: ArrayLike) -> np.ndarray:
    """Return the 1-based rank of each right answer, ties at their mean rank; infinity outside the vocabulary.

    Args:
        probabilities: (Q, A), higher is better.
        right: (Q,) column of the right answer; negative where the vocabulary lacks it.
    """
    matrix, columns = np.asarray(probabilities), np.asarray(right, dtype=np.int64)
    own = np.take_along_axis(matrix, np.maximum(columns, 0)[:, None], axis=1)
    ranks = (matrix > own).sum(axis=1) + ((matrix == own).sum(axis=1) + 1) / 2
    return np.asarray(np.where(columns < 0, np.inf, ranks))


def top_k_accuracy(ranks: ArrayLike, k: int) -> float:
    """Return the percentage of questions whose right answer is among the `k` most probable ones.

    This is the top-k error of ImageNet (Russakovsky et al., IJCV 2015), from 100. An answer outside the vocabulary has
    the rank infinity and counts as wrong.
    """
    return 100 * float((np.asarray(ranks, dtype=np.float64) <= k).mean())


def vqa_score(count: float, annotators: int) -> float:
    """Return the soft score of an answer that `count` of `annotators` people gave (Antol et al., VQA, ICCV 2015).

    It is min(1, others who gave it / 3), averaged over leaving each annotator out once, as the official evaluation
    code does. For ten annotators that is 0.3, 0.6, 0.9 and 1 for one, two, three and more of them.
    """
    without, within = min(1.0, count / ANNOTATORS), min(1.0, (count - 1) / ANNOTATORS)
    return ((annotators - count) * without + count * within) / annotators


def accuracy_by_type(items: pd.DataFrame, blank_items: pd.DataFrame) -> pd.DataFrame:
    """Return answer_type, questions, accuracy and blank_frames, both in percent; the most frequent type first."""
    kinds = items["answer_type"]
    grouped = items.groupby(kinds)["score"]
    blank = blank_items["score"].groupby(kinds).mean()
    table = pd.DataFrame(
        {"questions": grouped.size(), "accuracy": 100 * grouped.mean(), "blank_frames": 100 * blank}
    ).reset_index(names="answer_type")
    return table.sort_values(["questions", "answer_type"], ascending=[False, True], ignore_index=True)


def type_names(kinds: Iterable[str]) -> dict[str, str]:
    """Return the name of a metric for each of the most frequent types, {type: "accuracy_TYPE"}; none for a single type.

    Characters that a name of a metric cannot have become underscores; names that coincide then get a number.
    """
    found: dict[str, str] = {}
    frequent = pd.Series(list(kinds), dtype=object).value_counts().head(MAX_TYPES).index
    for number, kind in enumerate(frequent if len(frequent) > 1 else [], start=1):
        name = f"accuracy_{NOT_IN_A_NAME.sub('_', kind)}"
        found[kind] = f"{name}_{number}" if name in found.values() else name
    return found


def most_frequent(counts: Mapping[str, float]) -> str | None:
    """Return the key with the highest count, the first in alphabetical order of equal ones; None without a key."""
    return min(counts, key=lambda key: (-counts[key], key), default=None)


class PriorAnswers:
    """The answers that a question alone suggests: the most frequent ones of similar training questions.

    The answer is that of the same question in training; else of the questions with the same first two words, the
    "per question type prior" of Antol et al. (VQA, ICCV 2015); else of all.
    """

    def __init__(self, questions: Iterable[str], answers: Iterable[Mapping[str, float]]) -> None:
        """Args: the training `questions`, and the score of each of their answers."""
        self._totals: dict[Hashable, dict[str, float]] = {}
        for question, scores in zip(questions, answers, strict=True):
            for key in self._keys(question):
                total = self._totals.setdefault(key, {})
                for answer, score in scores.items():
                    total[answer] = total.get(answer, 0.0) + score

    def totals(self, question: str) -> dict[str, float]:
        """Return the total score of each answer to the most similar questions of the training."""
        return next((self._totals[key] for key in self._keys(question) if self._totals.get(key)), {})

    def answer(self, question: str) -> str | None:
        """Return the most frequent answer to the most similar questions; None without a training question."""
        return most_frequent(self.totals(question))

    @staticmethod
    def _keys(question: str) -> tuple[Hashable, ...]:
        words = tuple(question.casefold().split())
        return words, ("type", words[:2]), "all"
