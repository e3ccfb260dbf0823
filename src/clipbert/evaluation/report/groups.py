"""Results by group of test items: question type, text length, duration, brightness, combinations new to training."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd

from clipbert.evaluation.metrics.intervals import Interval, mean_interval
from clipbert.tasks import task_class
from clipbert.tasks.batch import Example
from clipbert.text_normalization import normalize_text, split_words

PARTS = 3  # groups of a measured property, of about equal size
MAX_TYPES = 20
CONFUSIONS = 10


@dataclass(frozen=True)
class Group:
    """The mean score in percent of one group of test items, its interval, and that of blank frames."""

    name: str
    items: int
    score: float
    interval: Interval | None
    blank: float | None


@dataclass(frozen=True)
class Confusion:
    """How often the model gave a wrong answer instead of a right one, and how many items have that right answer."""

    answer: str
    predicted: str
    count: int
    of: int


def results_by_group(
    task: str, items: pd.DataFrame, videos: pd.DataFrame, train: Sequence[Example]
) -> dict[str, list[Group]]:
    """Return the groups of each property that divides the items into at least two.

    Args:
        items: the predictions.
        videos: the columns media, kind, duration_s and brightness of the manifest.
        train: the training examples of the task.
    """
    found = {}
    for name, labels in item_properties(task, items, videos, train).items():
        known = labels.dropna()
        order = known.cat.categories if isinstance(known.dtype, pd.CategoricalDtype) else known.value_counts().index
        groups = [_group(str(label), items.loc[known.index[known == label]]) for label in order[:MAX_TYPES]]
        groups = [group for group in groups if group.items]
        if len(groups) > 1:
            found[name] = groups
    return found


def item_properties(
    task: str, items: pd.DataFrame, videos: pd.DataFrame, train: Sequence[Example]
) -> dict[str, "pd.Series[Any]"]:
    """Return the label of each item by name of the property, missing where it is not known."""
    about = items[["media"]].join(videos.drop_duplicates("media").set_index("media"), on="media")
    found: dict[str, pd.Series[Any]] = {}
    if "answer_type" in items and "masked_tokens" not in items:
        found["Question type"] = items["answer_type"]
    texts = _texts(items)
    if texts is not None:
        words = pd.Series([np.mean([len(split_words(text)) for text in some]) for some in texts], index=items.index)
        kind = "Caption" if "question" not in items else "Question"
        found[f"{kind} length"] = parts(words, "words")
    is_video = about["kind"] != "image"
    found["Duration"] = parts(about["duration_s"].where(is_video).astype(float), "s")
    found["Brightness"] = parts(about["brightness"].astype(float), "of 255", integers=True)
    if texts is not None:
        found["Combination"] = _combinations(items, texts, train)
    return found


def parts(values: "pd.Series[float]", unit: str, integers: bool = False) -> "pd.Series[Any]":
    """Divide values into `PARTS` groups of about equal size; the label of each is its range."""
    known = values.dropna()
    if known.empty:
        return pd.Series(pd.Categorical([None] * len(values)), index=values.index)
    ends = np.unique(np.quantile(known, np.arange(1, PARTS) / PARTS))
    codes = pd.Series(np.searchsorted(ends, values, side="left"), index=values.index)
    names = {}
    for code in sorted(codes[known.index].unique()):
        inside = known[codes[known.index] == code]
        low, high = (_number(value, integers) for value in (inside.min(), inside.max()))
        names[code] = f"{low} {unit}" if low == high else f"{low} to {high} {unit}"
    categories = list(dict.fromkeys(names.values()))
    labels = [names[code] if has else None for code, has in zip(codes, values.notna(), strict=True)]
    return pd.Series(pd.Categorical(labels, categories=categories, ordered=True), index=values.index)


def confused_answers(items: pd.DataFrame) -> list[Confusion]:
    """Return the most frequent pairs of a right answer and a wrong predicted one."""
    if not {"answer", "predicted"} <= set(items) or "masked_tokens" in items:
        return []
    totals = items["answer"].value_counts()
    wrong = items[items["score"] < 0.5]
    pairs = Counter(zip(wrong["answer"], wrong["predicted"], strict=True))
    ordered = sorted(pairs.items(), key=lambda entry: (-entry[1], entry[0]))[:CONFUSIONS]
    return [Confusion(answer, predicted, n, int(totals[answer])) for (answer, predicted), n in ordered]


def top_of_scale(task: str, groups: Mapping[str, Sequence[Group]]) -> float:
    """Return the end of the scale of mean scores in percent: 100, or less for a task whose scores are not shares."""
    if task_class(task).report.score_scale == 1:
        return 100.0
    ends = [
        end for some in groups.values() for one in some for end in (one.score, one.interval.high if one.interval else 0)
    ]
    return max([*ends, 1e-9])


def _group(name: str, rows: pd.DataFrame) -> Group:
    if rows.empty:
        return Group(name, 0, 0.0, None, None)
    blank = 100 * float(rows["blank_frames_score"].mean()) if "blank_frames_score" in rows else None
    return Group(name, len(rows), 100 * float(rows["score"].mean()), mean_interval(rows["score"], rows["media"]), blank)


def _texts(items: pd.DataFrame) -> list[list[str]] | None:
    """Return the texts of each item: its caption or question, or the reference captions of a generated one.

    A task of a user may have none of these columns.
    """
    for column in ("question", "text"):
        if column in items:
            return [[text] for text in items[column]]
    return [list(some) for some in items["references"]] if "references" in items else None


def _combinations(items: pd.DataFrame, texts: list[list[str]], train: Sequence[Example]) -> "pd.Series[Any]":
    """Return whether training has the question with this answer, or all pairs of adjacent words of the text."""
    if "question" in items:
        known = {
            (normalize_text(text), normalize_text(answer))
            for example in train
            for text, answer in zip(example.texts, example.answers, strict=True)
        }
        seen = [
            (normalize_text(question), normalize_text(answer)) in known
            for question, answer in zip(items["question"], items["answer"], strict=True)
        ]
        names = ["question and answer seen together in training", "new combination of question and answer"]
    else:
        pairs = {pair for example in train for text in example.texts for pair in _pairs(text)}
        seen = [all(pairs >= _pairs(text) for text in some) for some in texts]
        names = ["all pairs of adjacent words seen in training", "a pair of adjacent words is new"]
    labels = [names[0] if one else names[1] for one in seen]
    return pd.Series(pd.Categorical(labels, categories=names, ordered=True), index=items.index)


def _pairs(text: str) -> set[tuple[str, str]]:
    return set(pairwise(split_words(normalize_text(text))))


def _number(value: float, integer: bool) -> str:
    return f"{value:.0f}" if integer or value == round(value) else f"{value:.1f}"
