"""Intervals by the bootstrap over videos: brute force, coverage, and the cases that resampling cannot tell."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clipbert.evaluation.metrics.captions import bleu4, bleu4_counts
from clipbert.evaluation.metrics.intervals import (
    Average,
    Interval,
    Median,
    OfSums,
    Ratio,
    Statistic,
    bootstrap,
    mean_interval,
)


@st.composite
def items(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Values and videos of items, and how often each video is drawn in a few samples."""
    count = draw(st.integers(1, 12))
    values = np.array(draw(st.lists(st.integers(0, 9), min_size=count, max_size=count)), dtype=float)
    videos = np.array(draw(st.lists(st.integers(0, 4), min_size=count, max_size=count)))
    _, owners = np.unique(videos, return_inverse=True)
    size = int(owners.max()) + 1
    rows = st.lists(st.integers(0, 3), min_size=size, max_size=size)
    return values, owners, np.array(draw(st.lists(rows, min_size=1, max_size=4)), dtype=float)


@given(items())
def test_a_resampled_metric_is_that_of_the_drawn_videos_items(case: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
    values, owners, draws = case
    columns = np.stack([values, values + 1], axis=1)
    statistics: dict[str, Statistic] = {
        "mean": Ratio(values, owners, scale=1),
        "ratio": Ratio(values, owners, values + 1),
        "median": Median(values, owners),
        "sums": OfSums(columns, owners, lambda sums: sums[:, 0] * sums[:, 1], scale=1),
    }
    statistics["both"] = Average(statistics["mean"], statistics["median"])
    found = {name: statistic.resampled(draws, owners) for name, statistic in statistics.items()}
    for row, counts in enumerate(draws.astype(int)):
        drawn = np.repeat(values, counts[owners])
        expected = {
            "mean": drawn.mean() if len(drawn) else np.nan,
            "ratio": 100 * drawn.sum() / (drawn + 1).sum() if len(drawn) else np.nan,
            "median": np.median(drawn) if len(drawn) else np.nan,
            "sums": drawn.sum() * (drawn + 1).sum(),
        }
        expected["both"] = (expected["mean"] + expected["median"]) / 2
        for name, value in expected.items():
            assert found[name][row] == pytest.approx(value, nan_ok=True), name
    once = np.ones((1, draws.shape[1]))
    for name, statistic in statistics.items():
        assert statistic.resampled(once, owners)[0] == pytest.approx(statistic.value()), name


def test_videos_are_drawn_whole() -> None:
    """Twenty captions of a video that agree are one observation, so the interval is that of the videos."""
    right = np.arange(40) % 4 == 0
    of_videos = mean_interval(right, np.arange(40))
    of_captions = mean_interval(np.repeat(right, 20), np.repeat(np.arange(40), 20))
    as_if_independent = mean_interval(np.repeat(right, 20), np.arange(800))
    assert of_videos is not None
    assert of_captions is not None
    assert as_if_independent is not None
    assert of_captions == of_videos
    assert as_if_independent.width < of_videos.width / 3


def test_the_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    generator = np.random.default_rng(0)
    videos = np.repeat(np.arange(60), 5)
    covered = 0
    for _ in range(200):
        chance = np.repeat(generator.beta(2, 2, 60), 5)
        found = bootstrap({"x": Ratio(generator.random(300) < chance, videos)}, samples=300)["x"]
        covered += found.low <= 50 <= found.high
    assert 0.88 <= covered / 200 <= 0.99


def test_all_wrong_or_all_right_has_the_exact_limits() -> None:
    wrong, right = (mean_interval(np.full(8, value), np.arange(8)) for value in (0.0, 1.0))
    assert wrong == Interval(0.0, pytest.approx(36.94, abs=0.01))  # Clopper and Pearson's limit of 0 of 8
    assert right == Interval(pytest.approx(63.06, abs=0.01), 100.0)
    assert mean_interval(np.zeros(80), np.repeat(np.arange(8), 10)) == wrong


def test_one_video_has_no_interval() -> None:
    assert mean_interval([0.0, 1.0], ["a", "a"]) is None
    assert bootstrap({"one": Ratio([1.0], ["a"]), "two": Ratio([1.0, 0.0], ["a", "b"])}).keys() == {"two"}


def test_the_same_seed_gives_the_same_interval_in_any_company() -> None:
    generator = np.random.default_rng(0)
    videos = np.repeat(np.arange(30), 2)
    mean, median = Ratio(generator.random(60), videos), Median(generator.random(60), videos)
    both = bootstrap({"mean": mean, "median": median}, seed=3)
    assert both == bootstrap({"mean": mean, "median": median}, seed=3)
    assert both["mean"] == bootstrap({"mean": mean}, seed=3)["mean"]
    assert both["mean"] != bootstrap({"mean": mean}, seed=4)["mean"]
    assert both["mean"].low < mean.value() < both["mean"].high
    narrow = bootstrap({"mean": mean}, seed=3, confidence=0.5)["mean"]
    assert narrow.width < both["mean"].width


def test_corpus_bleu_is_resampled_from_its_counts() -> None:
    captions = ["a red square moves left", "a circle", "a star moves right now", "there is a big green wall"] * 5
    references = [["a red square moves left"], ["a blue circle moves"], ["a star moves right"], ["a small wall"]] * 5
    statistic = OfSums(bleu4_counts(captions, references), np.arange(20), bleu4)
    found = bootstrap({"bleu4": statistic})["bleu4"]
    assert 0 < found.low < statistic.value() < found.high < 100


def test_what_cannot_be_resampled_is_refused() -> None:
    with pytest.raises(ValueError, match="2 values need the video of each, found 1 videos"):
        Ratio([1.0, 0.0], ["a"])
    with pytest.raises(ValueError, match="broken is not a finite number"):
        bootstrap({"broken": Ratio([1.0, np.nan], ["a", "b"])})
