"""Predictions that do not fit the test items are refused, and the message names one of them."""

import pandas as pd
import pytest

from clipbert.errors import ClipBertError
from clipbert.evaluation.item_checks import check_items


@pytest.mark.parametrize(
    ("ids", "expected", "message"),
    [
        (
            ["a", "b"],
            ["a", "b", "c", "d"],
            r"4 test items: c is missing, and 1 more\. Expected one row per item\. Eval",
        ),
        (["a", "b", "b"], ["a", "b"], r"2 test items: b is there twice\. Expected"),
        (["a", "b", "x"], ["a", "b"], r"2 test items: x is not a test item\. Expected"),
        (["a"], ["a", "a"], r"1 test items: a occurs twice in the test split\. Expected"),
        ([], ["a"], r"1 test items: a is missing\. Expected"),
    ],
)
def test_an_item_without_its_one_prediction_is_named(ids: list[str], expected: list[str], message: str) -> None:
    with pytest.raises(ClipBertError, match=rf"open_qa: the predictions do not fit the {message}"):
        check_items("open_qa", pd.DataFrame({"item_id": ids}), expected)


def test_one_row_per_item_passes() -> None:
    check_items("open_qa", pd.DataFrame({"item_id": ["b", "a"]}), ["a", "b"])
