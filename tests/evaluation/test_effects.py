"""Effects: the paired bootstrap against a plain loop, and the two sources of variance against ANOVA and simulation."""

import math

import numpy as np
import pytest

from clipbert.evaluation.compare import paired_bootstrap
from clipbert.evaluation.comparison.effects import paired_effects, seed_effects
from clipbert.evaluation.metrics.intervals import Median, Ratio


def videos(count: int, each: int = 1) -> np.ndarray:
    return np.repeat([f"v{number:04d}" for number in range(count)], each)


def test_the_interval_is_that_of_differences_on_the_same_draws_of_whole_videos() -> None:
    generator = np.random.default_rng(0)
    a, b, of = generator.random(60), generator.random(60), videos(20, 3)
    statistics = [{"mean": Ratio(v, of), "median": Median(v, of)} for v in (a, b)]
    found = paired_effects(*statistics, samples=4000)
    assert found["mean"].difference == pytest.approx(100 * (b.mean() - a.mean()))
    draws = np.random.default_rng(1).integers(0, 20, (4000, 20))
    rows = (3 * draws[..., None] + np.arange(3)).reshape(4000, 60)
    for name, metric in (("mean", lambda v: 100 * v.mean()), ("median", np.median)):
        plain = np.array([metric(b[some]) - metric(a[some]) for some in rows])
        low, high = np.quantile(plain, [0.025, 0.975])
        spread = plain.std()
        assert (found[name].low, found[name].high) == pytest.approx((low, high), abs=0.15 * spread)


def test_single_items_agree_with_the_comparison_of_the_promotion_gate() -> None:
    generator = np.random.default_rng(2)
    a, b = generator.random(300) < 0.4, generator.random(300) < 0.5
    found = paired_effects({"r1": Ratio(a, videos(300))}, {"r1": Ratio(b, videos(300))}, samples=8000)["r1"]
    gate = paired_bootstrap(b, a)
    assert found.difference == pytest.approx(100 * gate.mean_difference)
    assert (found.low, found.high) == pytest.approx((100 * gate.low, 100 * gate.high), abs=0.6)


def test_metrics_that_one_model_lacks_are_left_out_and_one_video_has_no_interval() -> None:
    of = np.array(["v", "v"])
    found = paired_effects({"x": Ratio([0, 1], of), "y": Ratio([0, 1], of)}, {"x": Ratio([1, 1], of)})
    assert list(found) == ["x"]
    assert math.isnan(found["x"].low)
    assert not found["x"].excludes_zero


def grouped(values: np.ndarray) -> list[dict[str, Ratio]]:
    """One metric per training, of values (seeds, items)."""
    return [{"mean": Ratio(row, videos(values.shape[1]), scale=1, bounded=False)} for row in values]


def test_the_parts_are_those_of_the_two_way_analysis_of_variance() -> None:
    generator = np.random.default_rng(3)
    seeds, items = 4, 80
    groups = [
        generator.normal(0, 1, (1, items))
        + generator.normal(0, 0.4, (seeds, 1))
        + generator.normal(0, 1, (seeds, items))
        for _ in range(2)
    ]
    found = seed_effects(*map(grouped, groups), samples=20_000)["mean"]
    gain = groups[1].mean(axis=0) - groups[0].mean(axis=0)
    of_items = gain.var(ddof=1) / items
    residual = of_seeds = 0.0
    for values in groups:
        centered = values - values.mean(axis=0) - values.mean(axis=1, keepdims=True) + values.mean()
        residual += (centered**2).sum() / ((seeds - 1) * (items - 1)) / (seeds * items)
        of_seeds += values.mean(axis=1).var(ddof=1) / seeds
    assert found.items_error**2 == pytest.approx(of_items, rel=0.06)
    assert found.seeds_error**2 == pytest.approx(of_seeds - residual, rel=0.06)
    assert found.standard_error**2 == pytest.approx(of_items + of_seeds - residual, rel=0.06)
    assert found.seed_deviation == pytest.approx([values.mean(axis=1).std(ddof=1) for values in groups])
    assert found.difference == pytest.approx(gain.mean())


@pytest.mark.parametrize("noise_of_seeds", [0.0, 0.15])
def test_intervals_contain_the_true_effect_as_often_as_they_promise(noise_of_seeds: float) -> None:
    generator = np.random.default_rng(4)
    seeds, items, effect = 3, 60, 0.3
    inside = []
    for _ in range(250):
        shared = generator.normal(0, 1, (1, items))
        groups = [
            shift
            + shared
            + generator.normal(0, 0.3, (1, items))
            + generator.normal(0, noise_of_seeds, (seeds, 1))
            + generator.normal(0, 0.5, (seeds, items))
            for shift in (0.0, effect)
        ]
        found = seed_effects(*map(grouped, groups), samples=300)["mean"]
        inside.append(found.low <= effect <= found.high)
    assert 0.9 < np.mean(inside) <= 1


def test_noise_of_seeds_widens_the_interval_which_items_alone_do_not_show() -> None:
    generator = np.random.default_rng(5)
    base = (generator.random((1, 200)) < 0.5).astype(float)
    noisy = base * (generator.random((3, 200)) > [[0.0], [0.3], [0.6]])
    found = seed_effects(grouped(np.repeat(base, 3, axis=0)), grouped(noisy))["mean"]
    assert found.seed_deviation[0] == 0 < found.seed_deviation[1]
    assert found.seeds_error > found.items_error
    one = paired_effects(grouped(base)[0], grouped(noisy[2:])[0])["mean"]
    assert found.high - found.low > one.high - one.low


def test_equal_groups_have_no_effect_and_one_seed_is_refused() -> None:
    values = np.tile([0.0, 1.0], (2, 10))
    found = seed_effects(grouped(values), grouped(values))["mean"]
    assert (found.difference, found.standard_error, found.p_value) == (0, 0, 1)
    with pytest.raises(ValueError, match="at least two trainings"):
        seed_effects(grouped(values), grouped(values[:1]))
