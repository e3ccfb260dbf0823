"""Paired tests against brute force and scipy, and Holm's correction against closed testing."""

from itertools import combinations, product

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from clipbert.evaluation.comparison.paired_tests import holm, mcnemar, sign_flip_p_value, wilcoxon

ANSWERS = st.lists(st.tuples(st.integers(0, 1), st.integers(0, 1)), min_size=1, max_size=40)


def singles(count: int) -> list[str]:
    return [f"v{number}" for number in range(count)]


@given(ANSWERS)
def test_mcnemar_of_single_items_is_the_binomial_test_of_the_discordant_ones(answers: list[tuple[int, int]]) -> None:
    a, b = map(list, zip(*answers, strict=True))
    found = mcnemar(a, b, singles(len(a)))
    won, lost = answers.count((0, 1)), answers.count((1, 0))
    assert (found.won, found.lost, found.tied) == (won, lost, len(a) - won - lost)
    total, extreme = won + lost, max(won, lost)
    tail = sum(scipy.stats.binom.pmf(k, total, 0.5) for k in range(extreme, total + 1))
    assert found.p_value == pytest.approx(min(1.0, 2 * tail) if total else 1.0)
    assert not found.clustered


@given(st.lists(st.floats(-5, 5).map(lambda value: round(value, 1)), min_size=1, max_size=9))
def test_few_values_get_the_exact_distribution_of_their_signs(values: list[float]) -> None:
    observed = abs(sum(values))
    sums = [
        abs(sum(s * v for s, v in zip(signs, values, strict=True))) for signs in product((1, -1), repeat=len(values))
    ]
    assert sign_flip_p_value(values) == pytest.approx(np.mean([found >= observed - 1e-9 for found in sums]))


def test_many_signs_are_mcnemars_chi_square_and_signed_ranks_scipys_normal_wilcoxon() -> None:
    generator = np.random.default_rng(0)
    signs = np.where(generator.random(200) < 0.6, 1.0, -1.0)
    won, lost = (signs > 0).sum(), (signs < 0).sum()
    assert sign_flip_p_value(signs) == pytest.approx(scipy.stats.chi2.sf((won - lost) ** 2 / (won + lost), 1))
    differences = np.round(generator.normal(0.2, 1, 80), 1)  # with ties
    differences = differences[differences != 0]
    ranks = scipy.stats.rankdata(np.abs(differences)) * np.sign(differences)
    expected = scipy.stats.wilcoxon(differences, correction=False, method="asymptotic").pvalue
    assert sign_flip_p_value(ranks) == pytest.approx(expected)


@pytest.mark.parametrize("lower_is_better", [False, True])
def test_wilcoxon_of_single_items_is_scipys_and_knows_the_direction(lower_is_better: bool) -> None:
    generator = np.random.default_rng(1)
    a, b = generator.integers(1, 30, 70), generator.integers(1, 25, 70)
    found = wilcoxon(a, b, singles(70), lower_is_better)
    nonzero = (b - a)[b != a]
    assert found.p_value == pytest.approx(scipy.stats.wilcoxon(nonzero, correction=False).pvalue)
    assert found.won == ((b < a) if lower_is_better else (b > a)).sum()
    assert found.tied == (a == b).sum()


def test_items_of_one_video_are_one_unit() -> None:
    # Ten questions about each of four videos: the model is right on all of a video or on none.
    videos = [f"v{number // 10}" for number in range(40)]
    a, b = np.zeros(40), np.ones(40)
    assert mcnemar(a, b, singles(40)).p_value < 1e-10
    for found in (mcnemar(a, b, videos), wilcoxon(a, b, videos)):
        assert found.clustered
        assert found.p_value == pytest.approx(2 / 2**4)


def test_copies_of_every_item_do_not_change_the_p_value() -> None:
    generator = np.random.default_rng(2)
    a, b = generator.integers(0, 2, 12), generator.integers(0, 2, 12)
    once = mcnemar(a, b, singles(12)).p_value
    assert mcnemar(np.repeat(a, 3), np.repeat(b, 3), np.repeat(singles(12), 3)).p_value == pytest.approx(once)


def test_clustered_tests_reject_as_rarely_as_they_promise() -> None:
    generator = np.random.default_rng(3)
    videos = np.repeat(singles(40), 5)
    rejected = []
    for _ in range(300):
        easy = np.repeat(generator.random((2, 40)), 5, axis=1)  # each model has videos that it finds easy
        a, b = generator.random((2, 200)) < easy
        rejected.append(mcnemar(a, b, videos).p_value < 0.05)
    assert np.mean(rejected) < 0.09


def test_equal_models_have_no_small_p_value() -> None:
    assert mcnemar([1, 0, 1], [1, 0, 1], singles(3)).p_value == 1
    assert wilcoxon([1, 2, 3], [1, 2, 3], singles(3)).p_value == 1


@given(st.lists(st.floats(0, 1), min_size=1, max_size=6))
def test_holm_is_closed_testing_with_bonferroni(p_values: list[float]) -> None:
    # A hypothesis is rejected if every set of hypotheses with it is, by the smallest p-value times the size of the set.
    tests = range(len(p_values))
    expected = [
        max(
            min(1.0, size * min(p_values[i] for i in some))
            for size in range(1, len(p_values) + 1)
            for some in combinations(tests, size)
            if test in some
        )
        for test in tests
    ]
    assert holm(p_values) == pytest.approx(expected)


def test_holm_by_hand() -> None:
    assert holm([0.04, 0.01, 0.03]) == pytest.approx([0.06, 0.03, 0.06])
    assert holm([]) == []


@pytest.mark.parametrize(
    ("a", "b", "videos", "message"),
    [
        ([0.5], [1.0], ["v"], "right \\(1\\) or wrong"),
        ([np.nan], [1.0], ["v"], "not a finite number"),
        ([1.0, 0.0], [1.0], ["v"], "same items"),
        ([1.0], [1.0], ["v", "w"], "2,\\) videos"),
    ],
)
def test_unusable_values_are_refused(a: list[float], b: list[float], videos: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        mcnemar(a, b, videos)
