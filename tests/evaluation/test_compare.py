import math

import numpy as np
import pytest

from clipbert.evaluation.compare import paired_bootstrap


def test_equal_models_differ_by_nothing():
    scores = np.tile([0.0, 1.0], 50)
    result = paired_bootstrap(scores, scores)
    assert (result.mean_difference, result.low, result.high, result.p_value) == (0.0, 0.0, 0.0, 1.0)
    assert result.items == 100


def test_clear_improvement_has_an_interval_above_zero():
    generator = np.random.default_rng(1)
    a, b = generator.random(400) < 0.6, generator.random(400) < 0.4
    result = paired_bootstrap(a, b)
    assert result.mean_difference == pytest.approx(a.mean() - b.mean())
    assert 0 < result.low < result.mean_difference < result.high
    assert result.p_value < 0.001


def test_interval_and_p_value_match_the_normal_approximation():
    generator = np.random.default_rng(2)
    differences = generator.normal(0.05, 1.0, 2000)
    result = paired_bootstrap(differences, np.zeros(2000), samples=20_000)
    error = differences.std() / np.sqrt(2000)
    assert result.low == pytest.approx(differences.mean() - 1.96 * error, abs=0.1 * error)
    assert result.high == pytest.approx(differences.mean() + 1.96 * error, abs=0.1 * error)
    z = differences.mean() / error
    assert result.p_value == pytest.approx(math.erfc(abs(z) / math.sqrt(2)), abs=0.02)


def test_multinomial_draws_are_the_plain_bootstrap():
    generator = np.random.default_rng(3)
    a, b = generator.integers(0, 2, 150), generator.integers(0, 2, 150)
    fast = paired_bootstrap(a, b, samples=40_000)
    means = (a - b)[generator.integers(0, 150, (40_000, 150))].mean(axis=1)
    assert (fast.low, fast.high) == pytest.approx(np.quantile(means, [0.025, 0.975]), abs=0.01)


def test_swapping_the_models_mirrors_the_result():
    generator = np.random.default_rng(4)
    a, b = generator.random(300), generator.random(300)
    forth, back = paired_bootstrap(a, b, samples=4000), paired_bootstrap(b, a, samples=4000)
    assert forth.mean_difference == pytest.approx(-back.mean_difference)
    assert forth.low == pytest.approx(-back.high, abs=0.005)
    assert forth.p_value == pytest.approx(back.p_value, abs=0.05)


def test_false_positives_are_as_rare_as_the_confidence_says():
    generator = np.random.default_rng(5)
    trials = [paired_bootstrap(*(generator.random((2, 100)) < 0.3), samples=1000, seed=i).low > 0 for i in range(400)]
    assert 0.005 < np.mean(trials) < 0.05


def test_same_seed_same_numbers_and_more_confidence_a_wider_interval():
    generator = np.random.default_rng(6)
    a, b = generator.random(200), generator.random(200)
    assert paired_bootstrap(a, b, seed=7) == paired_bootstrap(a, b, seed=7)
    assert paired_bootstrap(a, b, seed=7) != paired_bootstrap(a, b, seed=8)
    narrow, wide = (paired_bootstrap(a, b, confidence=confidence) for confidence in (0.9, 0.99))
    assert wide.low < narrow.low < narrow.high < wide.high


def test_large_test_sets_have_narrow_intervals():
    generator = np.random.default_rng(8)
    found = paired_bootstrap(generator.random(70_000) < 0.5, generator.random(70_000) < 0.5)
    assert found.low < found.high < found.low + 0.02


@pytest.mark.parametrize(
    ("a", "b", "message"),
    [([1.0], [1.0, 2.0], "shapes"), ([], [], "no items"), ([np.nan], [0.0], "finite"), ([[1.0]], [[0.0]], "shapes")],
)
def test_unusable_scores_are_refused(a, b, message):
    with pytest.raises(ValueError, match=message):
        paired_bootstrap(a, b)
