"""The difference between a model and the champion on the same test items."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import pandas as pd

from clipbert.evaluation.conditions import ATTRIBUTE, differences
from clipbert.evaluation.metrics.intervals import mean_interval
from clipbert.tasks import task_class


@dataclass(frozen=True)
class Champion:
    """The champion of a task as its registration recorded it.

    Attributes:
        version: its number.
        is_this_model: whether it is the model of the report.
        scores: item_id to score of its registered evaluation; None: they cannot be read.
        conditions: of that evaluation.
    """

    version: str
    is_this_model: bool = False
    scores: "pd.Series[float] | None" = None
    conditions: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Difference:
    """A sentence about the champion, with the figures behind it where the two can be compared."""

    kind: Literal["good", "bad", "unclear", "note"]
    text: str


def difference(task: str, items: pd.DataFrame, champion: Champion | None) -> Difference | None:
    """Compare a model with the champion, item by item; None without a champion.

    The interval is that of the bootstrap over videos. Evaluations under other conditions or of other test items are not
    compared: `clipbert promote` evaluates the champion again.
    """
    if champion is None:
        return None
    name = f"the champion, version {champion.version}"
    if champion.is_this_model:
        return Difference("note", f"This model is {name}.")
    if champion.scores is None:
        return Difference("note", f"Not compared with {name}: its predictions cannot be read.")
    unlike = differences(task, items.attrs.get(ATTRIBUTE, {}), champion.conditions or {})
    ids = items["item_id"]
    if set(ids) != set(champion.scores.index):
        unlike.append(f"test items: {len(ids)}, {len(champion.scores)}")
    if unlike:
        reason = "; ".join(_readable(line) for line in unlike)
        return Difference(
            "note", f"Not compared with {name}, which was evaluated otherwise ({reason}). `clipbert promote` does it."
        )
    own, other = items["score"].astype(float), champion.scores.loc[ids].to_numpy(dtype=float)
    gains = own - other
    interval = mean_interval(gains, items["media"], bounded=False)
    report = task_class(task).report
    figures = f"{report.score(100 * own.mean())} against {report.score(100 * other.mean())}"
    won, lost = int((gains > 0).sum()), int((gains < 0).sum())
    counts = f"better on {won} of {len(gains)} test items, worse on {lost}"
    if interval is None:
        return Difference("unclear", f"One test video is too few to compare with {name}: {figures}.")
    between = f"{report.points(interval.low)} to {report.points(interval.high)} points"
    if interval.low > 0:
        return Difference("good", f"Better than {name}: {figures}, a gain of {between}; {counts}.")
    if interval.high < 0:
        return Difference("bad", f"Worse than {name}: {figures}, a difference of {between}; {counts}.")
    return Difference("unclear", f"Cannot tell whether it is better than {name}: {figures}, {between}; {counts}.")


def _readable(line: str) -> str:
    """Return a difference of conditions without the hashes of the test items."""
    return "test items" if line.startswith("test_items:") else line
