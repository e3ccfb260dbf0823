"""The helper columns: words without their dress, answers a model can give."""

import pandas as pd
import pytest

from clipbert.config.data import ValidateParams
from clipbert.data.manifest import TEXTS_SCHEMA, VIDEOS_SCHEMA
from clipbert.data.validation.tables import make_tables, normalise


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("  The RED ball! ", "the red ball"),
        ("e\u0301t\u00e9", "\u00e9t\u00e9"),
        ("\uff21\uff22\uff23 1", "abc 1"),
        ("\u5403\u996d\uff0c\u7761\u89c9\u3002", "\u5403\u996d \u7761\u89c9"),
        ("_?!", ""),
        (
            "\u0915\u093f\u0924\u093e\u092c, \u0915\u093e",
            "\u0915\u093f\u0924\u093e\u092c \u0915\u093e",
        ),  # vowel signs are part of a word
    ],
)
def test_words_alone_are_compared(text: str, words: str) -> None:
    assert normalise(text) == words


def test_only_the_most_frequent_training_answers_are_known() -> None:
    asked = [("train", "red")] * 3 + [("train", "blue")] * 2 + [("train", "green"), ("val", "blue"), ("test", "green")]
    rows = [
        dict.fromkeys(TEXTS_SCHEMA.names)
        | {"id": f"q{n}", "kind": "open_qa", "media": "a", "text": "?", "split": split, "answer": answer}
        for n, (split, answer) in enumerate(asked)
    ]
    none = pd.DataFrame({name: pd.Series(dtype=object) for name in VIDEOS_SCHEMA.names})
    tables = make_tables(none, pd.DataFrame(rows), None, ValidateParams(), max_answers=2)
    assert tables.frames["answers"][["answer", "answer_known"]].values.tolist() == [["blue", True], ["green", False]]
    assert set(tables.skipped) == {"drift", "near_duplicates", "text_truncated"}
    without = make_tables(none, pd.DataFrame(rows[:6]), None, ValidateParams(), max_answers=2)
    assert "answers" not in without.frames
    assert "no open questions" in without.skipped["answer_coverage"]
