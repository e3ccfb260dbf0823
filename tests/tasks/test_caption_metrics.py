"""The scorers of captions, and the constant caption found without them."""

import numpy as np
import pytest

from clipbert.tasks.caption_metrics import best_constant, bleu4_and_rouge, cider, words

REFERENCES = [
    ["A red square moves left over a blue background.", "a red square moves left"],
    ["A green circle stays still.", "there is a green circle", "a small green circle stays still over a wall"],
    ["A red star moves right and a blue ring stays still."],
]


def test_words_are_lower_case_without_punctuation() -> None:
    """Apostrophes separate words, as in the tokenizer: "dogs' bowl" and "dogs ' bowl" must not differ."""
    assert words("A dog's bowl, isn't it?  Über-grün.") == "a dog s bowl isn t it über grün"


def test_a_reference_itself_scores_highest() -> None:
    first = [some[0] for some in REFERENCES]
    right, wrong = cider(first, REFERENCES), cider(first[1:] + first[:1], REFERENCES)
    assert (right > 1).all()
    assert (wrong < right / 3).all()
    assert right[2] == pytest.approx(10)
    assert bleu4_and_rouge(first, REFERENCES) == (pytest.approx(1), pytest.approx(1))


def test_nothing_said_scores_nothing() -> None:
    assert cider(["", "", ""], REFERENCES).tolist() == [0, 0, 0]
    assert bleu4_and_rouge(["", "", ""], REFERENCES)[1] == 0


def test_the_best_constant_is_the_scorers_own() -> None:
    candidates = [text for some in REFERENCES for text in some] + ["a square and a circle", "a a a a red red"]
    scores = {words(text): float(np.mean(cider([text] * 3, REFERENCES))) for text in candidates}
    found, score = best_constant(candidates, REFERENCES)
    assert scores[found] == max(scores.values())
    for text, expected in scores.items():
        assert best_constant([text], REFERENCES) == (text, pytest.approx(expected))
    assert score == pytest.approx(scores[found])
