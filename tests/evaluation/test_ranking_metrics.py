"""Ranking metrics against brute force and against torchmetrics."""

from fractions import Fraction
from itertools import combinations, pairwise, permutations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torchmetrics.retrieval import RetrievalHitRate, RetrievalMRR, RetrievalNormalizedDCG

from clipbert.evaluation.metrics import ranking

SCORES = st.lists(st.integers(-3, 3), min_size=1, max_size=6)  # few values, so that there are ties


@given(SCORES, st.data())
def test_a_rank_is_the_mean_over_all_orders_of_equal_scores(scores: list[int], data: st.DataObject) -> None:
    target = data.draw(st.integers(0, len(scores) - 1))
    places = [
        order.index(target) + 1
        for order in permutations(range(len(scores)))
        if all(scores[a] >= scores[b] for a, b in pairwise(order))
    ]
    expected = pytest.approx(sum(places) / len(places))
    assert ranking.mean_rank_of(np.array(scores), target) == expected
    assert ranking.mean_rank_of(torch.tensor(scores), target) == expected


def test_a_score_that_is_not_a_number_has_no_rank() -> None:
    for scores in (np.array([1.0, np.nan]), torch.tensor([1.0, float("nan")])):
        with pytest.raises(ValueError, match="not a number"):
            ranking.mean_rank_of(scores, 0)
    with pytest.raises(ValueError, match="not a number"):
        ranking.ranks_of_texts([[np.nan]], [0])
    with pytest.raises(ValueError, match="not a number"):
        ranking.choice_accuracy([[0.0, np.nan]], [0])


@st.composite
def text_scores(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """Scores (N, G) of texts with videos, and each text's video; each video has 1 to 3 texts."""
    counts = draw(st.lists(st.integers(1, 3), min_size=1, max_size=5))
    owners = np.repeat(np.arange(len(counts)), counts)
    cells = st.lists(st.integers(0, 3), min_size=len(counts), max_size=len(counts))
    matrix = draw(st.lists(cells, min_size=len(owners), max_size=len(owners)))
    shuffled = draw(st.permutations(range(len(owners))))
    return np.array(matrix)[shuffled], owners[shuffled]


@given(text_scores())
def test_texts_are_ranked_among_those_of_other_videos(case: tuple[np.ndarray, np.ndarray]) -> None:
    scores, owners = case
    ranks = ranking.ranks_of_texts(scores, owners)
    for text, video in enumerate(owners):
        others = [scores[other, video] for other in range(len(owners)) if owners[other] != video]
        own = scores[text, video]
        above, equal = sum(score > own for score in others), sum(score == own for score in others)
        assert ranks[text] == 1 + above + equal / 2
    best = [min(ranks[owners == video]) for video in np.unique(owners)]
    assert ranking.best_ranks(ranks, owners).tolist() == best


@given(st.lists(st.integers(1, 60), min_size=1, max_size=20), st.integers(1, 60))
def test_recall_and_reciprocal_ranks_are_counted(ranks: list[int], k: int) -> None:
    assert ranking.recall_at_k(ranks, k) == pytest.approx(100 * sum(rank <= k for rank in ranks) / len(ranks))
    exact = sum(Fraction(1, rank) for rank in ranks) / len(ranks)
    assert ranking.reciprocal_ranks(ranks).mean() == pytest.approx(float(exact))


@st.composite
def distinct_scores(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """Scores (Q, G) without ties, and a matrix of the right items, at least one in a row."""
    queries, gallery = draw(st.integers(1, 5)), draw(st.integers(1, 8))
    scores = np.array([draw(st.permutations(range(1, gallery + 1))) for _ in range(queries)], dtype=np.float32)
    right = [
        draw(st.sets(st.integers(0, gallery - 1), min_size=1, max_size=gallery).map(sorted)) for _ in range(queries)
    ]
    relevant = np.zeros((queries, gallery), dtype=bool)
    for row, columns in enumerate(right):
        relevant[row, columns] = True
    return scores, relevant


@given(distinct_scores())
def test_torchmetrics_agrees(case: tuple[np.ndarray, np.ndarray]) -> None:
    scores, relevant = case
    rows, _ = np.nonzero(relevant)
    # the rank of each right item among the wrong ones, and the rank of the best right item
    among_wrong = np.array(
        [
            1 + sum(scores[row, other] > scores[row, column] for other in np.flatnonzero(~relevant[row]))
            for row, column in zip(*np.nonzero(relevant), strict=True)
        ]
    )
    first = ranking.best_ranks(among_wrong, rows)
    flat = (torch.tensor(scores).flatten(), torch.tensor(relevant).flatten())
    indexes = torch.arange(len(scores)).repeat_interleave(scores.shape[1])
    assert ranking.reciprocal_ranks(first).mean() == pytest.approx(float(RetrievalMRR()(*flat, indexes=indexes)))
    ndcg = ranking.ndcg_of_several(among_wrong, rows).mean()
    assert ndcg == pytest.approx(float(RetrievalNormalizedDCG()(*flat, indexes=indexes)), abs=1e-5)
    for k in {1, min(3, scores.shape[1])}:
        found = float(RetrievalHitRate(top_k=k)(*flat, indexes=indexes))
        assert ranking.recall_at_k(first, k) == pytest.approx(100 * found)


@given(st.lists(st.integers(0, 9), min_size=4, max_size=8), st.integers(0, 9))
def test_the_expected_choice_is_the_mean_over_all_choices(others: list[int], own: int) -> None:
    scores = np.array([own, *others])
    without_ties = [score for score in others if score != own]
    if len(without_ties) < len(others):
        return
    rank = ranking.mean_rank_of(scores, 0)
    choices = list(combinations(others, 4))
    expected = sum(own > max(choice) for choice in choices) / len(choices)
    assert ranking.expected_choice([rank], len(others)) == pytest.approx(expected)


def test_of_fewer_texts_than_options_all_are_wrong_options() -> None:
    assert ranking.expected_choice([1, 2], [2, 2]).tolist() == [1, 0]
    assert ranking.expected_choice([1], [0]).tolist() == [1]


def test_a_choice_among_captions_is_the_highest_score() -> None:
    scores = [[1.0, 2.0, 0.0], [3.0, 3.0, 0.0], [0.0, 0.0, 0.0]]
    assert ranking.choice_accuracy(scores, [1, 0, 2]) == pytest.approx(100 * (1 + 1 / 2 + 1 / 3) / 3)
