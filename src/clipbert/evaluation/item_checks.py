"""Checks of the items of an evaluation: each test item has one prediction with a score, and nothing else has one."""

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd

from clipbert.errors import ClipBertError
from clipbert.evaluation.predictions_file import read_predictions_file

REQUIRED = ("item_id", "score", "chance")
REMEDY = "Evaluate again: `clipbert evaluate {task}`."


def check_items(task: str, items: pd.DataFrame, expected: Iterable[str], what: str = "the predictions") -> None:
    """Check that each expected item has exactly one row.

    Args:
        expected: the ids of the test items.
        what: name of the rows, for the message.

    Raises:
        ClipBertError: an item is missing, doubled or unknown; the message names the first one and counts them.
    """
    wanted, found = Counter(expected), Counter(items["item_id"])
    for problem, names in (
        ("occurs twice in the test split", [name for name, count in wanted.items() if count > 1]),
        ("is missing", [name for name in wanted if name not in found]),
        ("is there twice", [name for name, count in found.items() if count > wanted[name] > 0]),
        ("is not a test item", [name for name in found if name not in wanted]),
    ):
        if names:
            raise ClipBertError(
                f"{task}: {what} do not fit the {len(wanted)} test items: {names[0]} {problem}"
                f"{f', and {len(names) - 1} more' if len(names) > 1 else ''}. Expected one row per item. "
                f"{REMEDY.format(task=task)}"
            )


def read_predictions(path: Path, task: str) -> pd.DataFrame:
    """Return the test items of a task's model: item_id, score, chance and other columns, indexed by item_id.

    Raises:
        ClipBertError: the file is missing or damaged, a column is missing, or an item occurs twice.
    """
    return check_predictions(read_predictions_file(path, task)[0], str(path), task)


def check_predictions(items: pd.DataFrame, origin: str, task: str) -> pd.DataFrame:
    """Return the test items of a task indexed by item_id, after a check.

    Args:
        origin: where the items come from, for messages.

    Raises:
        ClipBertError: a column is missing, there are no items, or an item occurs twice.
    """
    again = f"Evaluate again: `clipbert evaluate {task}`."
    if missing := [column for column in REQUIRED if column not in items.columns]:
        raise ClipBertError(f"{origin}: the predictions lack the column(s) {', '.join(missing)}. {again}")
    if items.empty:
        raise ClipBertError(f"{origin}: expected test items, each once; found 0 rows. {again}")
    if (doubled := items["item_id"].duplicated()).any():
        name = items["item_id"][doubled].iloc[0]
        raise ClipBertError(
            f"{origin}: expected test items, each once; found {len(items)} rows, and {name} twice or more. {again}"
        )
    if not (finite := np.isfinite(items["score"].to_numpy(dtype=float))).all():
        name = items["item_id"].iloc[int(np.flatnonzero(~finite)[0])]
        raise ClipBertError(f"{origin}: the score of {name} is not a finite number. {again}")
    return items.set_index("item_id", drop=False)
