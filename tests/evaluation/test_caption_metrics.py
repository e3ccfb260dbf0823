"""The scorers of captions, and the constant caption found without them."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from pycocoevalcap.bleu.bleu import Bleu
from torchmetrics.text import BLEUScore

from clipbert.evaluation.metrics.captions import (
    MeteorUnavailable,
    best_constant,
    bleu4,
    bleu4_counts,
    cider,
    meteor,
    rouge_l,
    words,
)

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
    assert corpus_bleu(first) == pytest.approx(1)
    assert rouge_l(first, REFERENCES).mean() == pytest.approx(1)


def test_nothing_said_scores_nothing() -> None:
    assert cider(["", "", ""], REFERENCES).tolist() == [0, 0, 0]
    assert corpus_bleu(["", "", ""]) == pytest.approx(0, abs=1e-6)
    assert rouge_l(["", "", ""], REFERENCES).tolist() == [0, 0, 0]


def corpus_bleu(captions: list[str]) -> float:
    return float(bleu4(bleu4_counts(captions, REFERENCES).sum(axis=0, keepdims=True))[0])


def test_bleu_of_counts_is_the_scorers() -> None:
    captions = ["a red square moves", "a green circle stays still still", "a star moves right and stays"]
    truth = {i: [words(text) for text in some] for i, some in enumerate(REFERENCES)}
    expected = Bleu(4).compute_score(truth, {i: [words(text)] for i, text in enumerate(captions)}, verbose=0)[0][3]
    assert 0 < expected < 1
    assert corpus_bleu(captions) == pytest.approx(expected)


def test_bleu_and_torchmetrics_agree() -> None:
    captions = ["a red square moves left", "a green circle stays still still", "a red star moves right now"]
    reference = [[words(text) for text in some] for some in REFERENCES]
    assert corpus_bleu(captions) == pytest.approx(float(BLEUScore()(captions, reference)), abs=1e-6)


@pytest.mark.slow
def test_meteor_is_that_of_the_authors_program() -> None:
    if shutil.which("java") is None:
        pytest.skip("METEOR needs Java")
    first = [some[0] for some in REFERENCES]
    same, other = meteor([first, ["a red square", "", "a star moves"]], REFERENCES)
    assert same == pytest.approx(1)
    assert other == pytest.approx(0.14183192509676684)  # printed by the program for these captions


def test_without_java_meteor_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(MeteorUnavailable, match="METEOR needs Java, and there is no `java` on the PATH"):
        meteor([["a"]], [["a"]])


@pytest.mark.slow
def test_a_java_that_fails_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "java").write_text("#!/bin/sh\nexit 1\n")
    (tmp_path / "java").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    with pytest.raises(MeteorUnavailable, match="METEOR's Java program failed"):
        meteor([["a"]], [["a"]])


def test_the_best_constant_is_the_scorers_own() -> None:
    candidates = [text for some in REFERENCES for text in some] + ["a square and a circle", "a a a a red red"]
    scores = {words(text): float(np.mean(cider([text] * 3, REFERENCES))) for text in candidates}
    found, score = best_constant(candidates, REFERENCES)
    assert scores[found] == max(scores.values())
    for text, expected in scores.items():
        assert best_constant([text], REFERENCES) == (text, pytest.approx(expected))
    assert score == pytest.approx(scores[found])
