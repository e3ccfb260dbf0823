"""Check that evaluations have the same test items, and describe how they differ."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from clipbert.errors import ClipBertError
from clipbert.evaluation.comparison.source import Source

# Columns of predictions that belong to the test item and not to the model's answer.
CONTENT = (
    "media",
    "start_s",
    "end_s",
    "text",
    "question",
    "answer",
    "answer_type",
    "options",
    "right",
    "right_answers",
    "right_scores",
    "references",
    "gallery",
)
SHOWN = 3  # examples of each kind of difference
LONGEST = 60  # characters of a value in a message


def same_items(sources: Sequence[Source]) -> list[pd.DataFrame]:
    """Return the predictions of each source in the order of the first one's items.

    Raises:
        ClipBertError: the sources are of several tasks, their test items differ, or their scores were computed by
            different versions of the scoring code.
    """
    first = sources[0]
    for other in sources[1:]:
        if other.task != first.task:
            raise ClipBertError(
                f"{first.name} is a model of {first.task} ({first.place}), and {other.name} one of {other.task} "
                f"({other.place}). Only models of one task can be compared."
            )
        if differences := describe_differences(first, other):
            lines = "\n".join(f"  {line}" for line in differences)
            raise ClipBertError(
                f"{first.name} and {other.name} were evaluated on different test items of {first.task}:\n{lines}\n"
                f"Evaluate both on the same data: restore one state of data/ (`git checkout REVISION data.dvc`, "
                f"`dvc checkout`), then `clipbert evaluate {first.task}` for each model."
            )
        versions = [str(source.conditions.get("scoring", "not recorded")) for source in (first, other)]
        if versions[0] != versions[1]:
            raise ClipBertError(
                f"The scores of {first.name} and {other.name} were computed by different versions of the scoring code "
                f"({versions[0]} and {versions[1]}). Evaluate the older one again: `clipbert evaluate {first.task}`."
            )
    return [source.items.loc[first.items.index] for source in sources]


def describe_differences(a: Source, b: Source) -> list[str]:
    """Return how the test items of two evaluations differ, with counts and first examples; empty if they are equal."""
    found = []
    for source, other in ((a, b), (b, a)):
        only = source.items.index.difference(other.items.index, sort=False)
        if len(only):
            items = "items are" if len(only) > 1 else "item is"
            found.append(f"{len(only)} {items} only in {source.name}: {_some(list(only))}")
    common = a.items.index.intersection(b.items.index, sort=False)
    one, two = a.items.loc[common], b.items.loc[common]
    pretraining = "masked_tokens" in one  # the answer then counts the tokens that were masked
    for column in CONTENT:
        if column not in one or column not in two or (column == "answer" and pretraining):
            continue
        changed = [
            (item, _plain(old), _plain(new))
            for item, old, new in zip(common, one[column], two[column], strict=True)
            if _plain(old) != _plain(new)
        ]
        if changed:
            examples = [f"{item} ({_cut(old)} and {_cut(new)})" for item, old, new in changed[:SHOWN]]
            more = f", and {len(changed) - SHOWN} more" if len(changed) > SHOWN else ""
            items = "items" if len(changed) > 1 else "item"
            found.append(f"{column} differs in {len(changed)} {items}: {', '.join(examples)}{more}")
    digests = [source.conditions.get("test_items") for source in (a, b)]
    if not found and None not in digests and digests[0] != digests[1]:
        short = " and ".join(str(digest)[:12] for digest in digests)
        found.append(
            f"all {len(common)} items have the same texts and answers, but their digests differ ({short}): a media "
            "file or a part of an item that predictions do not store was changed"
        )
    return found


def _some(names: list[str]) -> str:
    more = f", and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(map(str, names[:SHOWN])) + more


def _plain(value: Any) -> Any:
    """Return a cell as a value that can be compared: arrays as lists, missing values as None."""
    if isinstance(value, np.ndarray | list | tuple):
        return [_plain(some) for some in value]
    if value is None or (isinstance(value, float) and np.isnan(value)) or value is pd.NA:
        return None
    return value.item() if isinstance(value, np.generic) else value


def _cut(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 3]}..."
