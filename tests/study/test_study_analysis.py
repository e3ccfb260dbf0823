"""Arithmetic of a study: means and standard errors over seeds, effects, the Pareto front, and the choice."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from compared import ranked_items
from study_results import ITEMS, make_study

from clipbert.errors import ClipBertError
from clipbert.evaluation.comparison.effects import SeedMean, blocked_effects, seed_means
from clipbert.evaluation.metrics.intervals import Ratio
from clipbert.evaluation.predictions_file import write_predictions
from clipbert.study.analysis import TFLOP, Analysis, Row, analyze, choose


@pytest.fixture(scope="module")
def analysis(tmp_path_factory: pytest.TempPathFactory) -> Analysis:
    folder = tmp_path_factory.mktemp("study")
    return analyze(*make_study(folder, [0, 1, 2]), folder)


def test_a_row_is_the_mean_over_seeds_with_its_cost(analysis: Analysis) -> None:
    row = next(row for row in analysis.rows if row.name == "base; 1 clip, lse")
    assert row.values == (30.0, 32.0, 31.0)
    assert row.mean.value == pytest.approx(31.0)
    assert row.mean.seed_deviation == pytest.approx(1.0)
    assert row.mean.low < 31 < row.mean.high
    assert row.cost == {"tflop": 2.0, "seconds": 30.0, "ms_per_item": 1.0}
    assert row.test is None  # the pipeline evaluates with 2 clips
    assert next(row for row in analysis.rows if row.name == "base; 2 clips, lse").test == 25.0


def test_the_standard_error_has_videos_and_seeds() -> None:
    videos = [f"v{i}" for i in range(ITEMS)]

    def run(right: int, shift: int = 0) -> dict[str, Ratio]:
        return {"m": Ratio([float((i - shift) % ITEMS < right) for i in range(ITEMS)], videos)}

    one = seed_means([run(80)])["m"]
    binomial = 100 * math.sqrt(0.4 * 0.6 / ITEMS)
    assert one.standard_error == pytest.approx(binomial, rel=0.1)
    assert math.isnan(one.seed_deviation)
    # equal trainings add nothing; different ones do
    assert seed_means([run(80)] * 3)["m"].standard_error == pytest.approx(one.standard_error, rel=0.01)
    apart = seed_means([run(50), run(80), run(110)])["m"]
    assert apart.seed_deviation == pytest.approx(15.0)
    assert apart.standard_error > np.hypot(binomial, 0.8 * 15 / math.sqrt(3))
    with pytest.raises(ValueError, match="at least one training"):
        seed_means([])


def test_what_a_seed_does_to_both_settings_cancels() -> None:
    videos = [f"v{i}" for i in range(ITEMS)]

    def run(right: int) -> dict[str, Ratio]:
        return {"m": Ratio([float(i < right) for i in range(ITEMS)], videos)}

    # trainings 30 points apart, and one setting better by 5, 6 and 5.5 points with each seed
    a, b = [run(40), run(100), run(160)], [run(50), run(112), run(171)]
    effect = blocked_effects(a, b)["m"]
    assert (effect.a, effect.b) == pytest.approx((50.0, 55.5))
    assert effect.difference == pytest.approx(5.5)
    assert 0 < effect.low < 5.5 < effect.high < 10
    assert effect.p_value < 0.01
    # two evaluations with equal scores have no difference
    same = blocked_effects(a, a)["m"]
    assert (same.low, same.high, same.p_value) == (0.0, 0.0, 1.0)


def test_an_axis_has_effects_against_the_base_and_says_whether_it_matters(analysis: Analysis) -> None:
    tables = {axis.name: axis for axis in analysis.axes}
    assert list(tables) == ["clips", "image size", "clips in evaluation", "score aggregation in evaluation, 2 clips"]
    clips, size = tables["clips"], tables["image size"]
    assert [one.label for one in clips.rows] == ["clips=1", "clips=2"]
    assert clips.rows[0].effect is None
    effect = clips.rows[1].effect
    assert effect is not None
    assert effect.difference == pytest.approx(0.5)
    assert effect.low < 0 < effect.high
    assert clips.finding.startswith("No clear difference from clips=1; the widest interval is ")
    assert size.finding == "It matters: image_size=96 is 29.5 points better than image_size=64."
    assert size.rows[1].p_value is not None
    assert size.rows[1].p_value < 0.05
    in_evaluation = tables["clips in evaluation"]
    assert [one.row.name for one in in_evaluation.rows] == ["base; 1 clip, lse", "base; 2 clips, lse"]
    assert in_evaluation.rows[1].effect is None  # evaluate.clips of params.yaml is the reference


def test_the_front_has_what_nothing_cheaper_reaches(analysis: Analysis) -> None:
    front = {row.name for row in analysis.rows if row.pareto and row.own}
    assert front == {
        "base; 1 clip, lse",
        "base; 2 clips, lse",
        "clips=2; 2 clips, lse",
        "image_size=96; 1 clip, lse",
        "image_size=96; 2 clips, lse",
    }


def test_the_choice_is_the_cheapest_within_one_standard_error(analysis: Analysis) -> None:
    assert analysis.best.name == "image_size=96; 2 clips, lse"
    assert analysis.choice.name == "image_size=96; 1 clip, lse"  # the same training, a cheaper evaluation
    row = analysis.best

    def near(label: str, value: float, tflop: float, repeatable: bool = True) -> Row:
        mean = SeedMean(value, value - 4, value + 4, 2.0, 1.0, 5.0)
        return replace(row, label=label, mean=mean, cost={TFLOP: tflop}, repeatable=repeatable)

    rows = [near("best", 50, 9), near("near", 48, 3), near("below", 47.9, 1), near("not a parameter", 49, 0.5, False)]
    assert choose(rows, TFLOP).label == "near"
    assert choose([near("unreachable", 60, 1, False), *rows], TFLOP).label == "near"


def test_another_aggregation_is_chosen_only_where_a_training_gives_it(analysis: Analysis) -> None:
    not_repeatable = {row.name for row in analysis.rows if not row.repeatable}
    assert not_repeatable == {"clips=2; 2 clips, max"}
    assert not [row for row in analysis.rows if row.clips == 1 and not row.own]  # nothing is aggregated


def test_unfinished_points_are_named_and_one_seed_finds_nothing(tmp_path: Path) -> None:
    plan, records = make_study(tmp_path, [0, 1], drop=("g-clips-2-seed1",))
    found = analyze(plan, records, tmp_path)
    assert found.missing == ("g-clips-2-seed1",)
    assert found.axes[0].finding == "One seed says nothing about the noise of seeds: no finding."
    with pytest.raises(ClipBertError, match="no training of the base is finished"):
        analyze(plan, {}, tmp_path)


def test_predictions_of_other_items_are_refused(tmp_path: Path) -> None:
    plan, records = make_study(tmp_path, [0])
    name = "g-clips-2-seed0"
    write_predictions(tmp_path / name / "validation" / "clips1.parquet", ranked_items([1.0] * 7), {})
    with pytest.raises(ClipBertError, match=f"{name}.*expected predictions of the same validation items"):
        analyze(plan, records, tmp_path)
