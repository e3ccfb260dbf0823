"""Findings of an evaluation in words, derived from confidence intervals (docs/concepts/metrics.md).

A difference between the model and a baseline is taken item by item, on the same test items, and its interval is that of
the bootstrap over videos.
"""

from dataclasses import dataclass
from typing import Literal

import pandas as pd

from clipbert.evaluation.metrics.intervals import Interval, mean_interval
from clipbert.tasks import task_class
from clipbert.tasks.presentation import QUESTION_ONLY, SHUFFLED, SINGLE_FRAME, Report

TOO_WIDE = 30.0  # percentage points of an interval from which on nothing else is said
NEGLIGIBLE = 5.0  # points: a gain that an interval excludes from here on is reported as none
FEWEST_ITEMS, FEWEST_VIDEOS = 20, 10  # of an answer type
SAYS_LITTLE = 50.0  # percent: chance of a recall from which on the recall says little
RECALLS = (5, 10)


@dataclass(frozen=True)
class Finding:
    """One sentence, and whether it speaks for the model."""

    kind: Literal["good", "bad", "unclear", "note"]
    text: str


@dataclass(frozen=True)
class Gain:
    """The mean score of the model and of a baseline on the same items, and the interval of their difference."""

    own: float
    other: float
    interval: Interval

    @property
    def clear(self) -> bool:
        """Whether the model is better: the interval lies above 0."""
        return self.interval.low > 0

    @property
    def negligible(self) -> bool:
        """Whether a gain can be excluded: the model is not better on these items, or by less than NEGLIGIBLE."""
        return not self.clear and (self.own <= self.other or self.interval.high < NEGLIGIBLE)


def verdict(task: str, items: pd.DataFrame) -> list[Finding]:
    """Return what the predictions of a task show, the most important finding first.

    Args:
        items: the predictions with the scores of the baselines, as `clipbert evaluate` stores them.
    """
    report = task_class(task).report
    few = _too_few(report, items)
    found = [few] if few else [*_against_baselines(report, items), *_frames(report, items)]
    return [*found, *_one_answer(items), *_vocabulary(items), *_trivial_recall(items)]


def _too_few(report: Report, items: pd.DataFrame) -> Finding | None:
    videos = items["media"].nunique()
    interval = mean_interval(items["score"], items["media"])
    if interval is None:
        return Finding("unclear", "One test video is too few to tell: it gives no interval.")
    if interval.width <= TOO_WIDE:
        return None
    ends = f"{report.score(interval.low, unit=False)} to {report.score(interval.high)}"
    return Finding("unclear", f"{videos} test videos are too few to tell: the interval is {ends}.")


def _against_baselines(report: Report, items: pd.DataFrame) -> list[Finding]:
    """Return whether the model is better than the strongest baseline that sees no frames and no question's meaning."""
    known = {**report.all_baselines(), "question_only_score": QUESTION_ONLY}
    known = {column: name for column, name in known.items() if column in items and column != "blank_frames_score"}
    if not known:
        return []
    best = max(known, key=lambda column: items[column].mean())
    name, gain = known[best], _gain(items, best)
    figures = f"{report.score(gain.own)} against {report.score(gain.other)}"
    between = f"{report.points(gain.interval.low)} to {report.points(gain.interval.high)} points"
    the = name if name == "chance" else f"the {name}"
    if gain.clear:
        return [Finding("good", f"Better than {the}: {figures}, a gain of {between}.")]
    if gain.interval.high < 0:
        return [Finding("bad", f"Worse than {the}: {figures}, a difference of {between}.")]
    return [Finding("bad", f"No better than {the}: {figures}, a difference of {between}.")]


def _frames(report: Report, items: pd.DataFrame) -> list[Finding]:
    """Return whether the model uses the frames, also by answer type, their order, and more than one of them."""
    found: list[Finding] = []
    if "blank_frames_score" in items:
        gain = _gain(items, "blank_frames_score")
        found.append(_use(report, gain, "the frames", "with blank frames"))
        if gain.clear and "answer_type" in items:
            for kind, rows in items.groupby("answer_type", sort=True):
                if len(rows) == len(items) or len(rows) < FEWEST_ITEMS or rows["media"].nunique() < FEWEST_VIDEOS:
                    continue
                of_kind = _gain(rows, "blank_frames_score")
                if not of_kind.clear:
                    found.append(_use(report, of_kind, f"the frames for `{kind}` questions", "with blank frames"))
    for column, name in (("shuffled_frames_score", SHUFFLED), ("single_frame_score", SINGLE_FRAME)):
        rows = items[items[column].notna()] if column in items else items.iloc[:0]
        if rows["media"].nunique() < FEWEST_VIDEOS:
            continue
        gain = _gain(rows, column)
        what = "the order of the frames" if name == SHUFFLED else "more than one frame"
        finding = _use(report, gain, what, f"with {name if name == SHUFFLED else f'a {name}'}")
        found.append(finding if finding.kind == "good" else Finding("note", finding.text))
    return found


def _use(report: Report, gain: Gain, what: str, without: str) -> Finding:
    figures = f"({report.score(gain.own)} against {report.score(gain.other)} {without}"
    if gain.clear:
        return Finding("good", f"Uses {what} {figures}).")
    if gain.negligible:
        return Finding("bad", f"Does not use {what} {figures}).")
    between = f"{report.points(gain.interval.low)} to {report.points(gain.interval.high)} points"
    return Finding("unclear", f"Cannot tell whether it uses {what} {figures}: a difference of {between}).")


def _one_answer(items: pd.DataFrame) -> list[Finding]:
    if "answer" not in items or len(items) < 2 or items["answer"].nunique() > 1 or "masked_tokens" in items:
        return []
    answer = items["answer"].iloc[0]
    return [
        Finding("unclear", f"All {len(items)} test questions have the answer `{answer}`: an accuracy says nothing.")
    ]


def _vocabulary(items: pd.DataFrame) -> list[Finding]:
    if "in_vocabulary" not in items:
        return []
    outside = items[~items["in_vocabulary"].astype(bool)]
    if outside.empty:
        return []
    first = outside.iloc[0]
    text = (
        f"{len(outside)} of {len(items)} test questions have an answer outside the model's vocabulary, which counts as "
        f"wrong: the first is {first['item_id']} (`{first['answer']}`)."
    )
    return [Finding("note", text)]


def _trivial_recall(items: pd.DataFrame) -> list[Finding]:
    if "rank" not in items or "gallery" not in items:
        return []
    gallery = int(items["gallery"].max())
    trivial = [f"R@{k}" for k in RECALLS if k >= gallery]
    found = []
    if trivial:
        names, verb = " and ".join(trivial), "is" if len(trivial) == 1 else "are"
        videos = "one video" if gallery == 1 else f"{gallery} videos"
        found.append(Finding("unclear", f"{names} of 100 % {verb} trivial with {videos}."))
    for k in RECALLS:
        if k < gallery and 100 * k / gallery >= SAYS_LITTLE:
            recall = 100 * float((items["rank"] <= k).mean())
            text = f"R@{k} of {recall:.0f} % says little with {gallery} videos: chance is {100 * k / gallery:.0f} %."
            found.append(Finding("unclear", text))
    return found


def _gain(items: pd.DataFrame, column: str) -> Gain:
    own, other = items["score"].to_numpy(dtype=float), items[column].to_numpy(dtype=float)
    interval = mean_interval(own - other, items["media"], bounded=False)
    difference = 100 * float((own - other).mean())
    interval = interval or Interval(difference, difference)
    return Gain(100 * float(own.mean()), 100 * float(other.mean()), interval)
