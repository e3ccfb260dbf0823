"""Comparisons of small evaluations: effects, findings, what is refused, groups of seeds, JSON and metrics."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from compared import make_source, qa_items, ranked_items

from clipbert.errors import ClipBertError
from clipbert.evaluation.comparison.effects import SeedEffect
from clipbert.evaluation.comparison.export import to_json, to_metrics
from clipbert.evaluation.comparison.result import compare
from clipbert.evaluation.comparison.source import Source, differing_settings, format_cost

WEAK = [1.0] * 20 + [0.0] * 80
STRONG = [1.0] * 60 + [0.0] * 40


def seeded(name: str, scores: list[float], seed: int, lr: str) -> Source:
    return make_source(name, qa_items(scores), params={"seed": str(seed), "train.lr": lr, "train.epochs": "5"})


def test_a_better_model_is_found_with_its_effect_and_its_items() -> None:
    found = compare([make_source("a", qa_items(WEAK)), make_source("b", qa_items(STRONG))])
    (pair,) = found.pairs
    effect = pair.effects["accuracy"]
    assert (effect.a, effect.b) == (20, 60)
    assert 0 < effect.low < 40 < effect.high
    assert (pair.test.name, pair.test.won, pair.test.lost, pair.test.tied) == ("McNemar", 40, 0, 60)
    assert pair.won == [f"q{i:03d}" for i in range(20, 60)]
    assert pair.lost == []
    assert pair.kind == "good"
    assert pair.finding.startswith("b is better than a: accuracy +40.0 points (95 % interval +3")
    assert list(pair.effects)[:2] == ["accuracy", "top5_accuracy"]


def test_swapped_models_have_the_opposite_result() -> None:
    a, b = make_source("a", qa_items(WEAK)), make_source("b", qa_items(STRONG))
    (forth,), (back,) = compare([a, b]).pairs, compare([b, a]).pairs
    assert back.kind == "bad"
    assert back.finding.startswith("a is worse than b")
    assert (back.won, back.lost) == (forth.lost, forth.won)
    assert back.effects["accuracy"].difference == -forth.effects["accuracy"].difference
    assert back.test.p_value == forth.test.p_value


def test_rows_in_another_order_give_the_same_result() -> None:
    a, b = make_source("a", qa_items(WEAK)), make_source("b", qa_items(STRONG))
    shuffled = replace(b, items=b.items.sample(frac=1, random_state=0))
    assert to_json(compare([a, shuffled])) == to_json(compare([a, b]))


def test_retrieval_compares_ranks_the_largest_difference_first() -> None:
    generator = np.random.default_rng(0)
    ranks = generator.integers(2, 40, 60)
    better = np.maximum(1, ranks - 3)
    better[7], ranks[7] = 1, 40
    better[9], ranks[9] = 30, 5
    (pair,) = compare(
        [make_source(n, ranked_items(list(r)), "retrieval") for n, r in (("a", ranks), ("b", better))]
    ).pairs
    assert pair.test.name == "Wilcoxon signed-rank"
    assert pair.won[0] == "c007"
    assert pair.lost == ["c009"]
    assert list(pair.effects)[:4] == ["r1", "r5", "r10", "median_rank"]


def test_little_data_and_equal_models_are_called_what_they_are() -> None:
    generator = np.random.default_rng(1)
    few = [make_source(n, qa_items(list(generator.integers(0, 2, 8)))) for n in "ab"]
    (pair,) = compare(few).pairs
    assert pair.kind == "unclear"
    assert pair.finding.startswith("8 test videos are too few to tell b from a")
    (pair,) = compare([make_source(n, qa_items(WEAK)) for n in "ab"]).pairs
    assert pair.same
    assert "have the same predictions" in pair.finding
    many = [make_source(n, qa_items(list((generator.random(2000) < 0.5).astype(float)))) for n in "ab"]
    (pair,) = compare(many).pairs
    assert pair.finding.startswith("No clear difference between b and a")
    single = [make_source(n, qa_items(s, per_video=9)) for n, s in (("a", [0.0, 1.0]), ("b", [1.0, 1.0]))]
    assert compare(single).pairs[0].finding.startswith("One test video is too few")


def test_several_models_are_compared_with_the_first_or_in_all_pairs_with_holms_correction() -> None:
    generator = np.random.default_rng(2)
    sources = [
        make_source(n, qa_items(list((generator.random(80) < p).astype(float))))
        for n, p in zip("abc", (0.4, 0.6, 0.5), strict=True)
    ]
    found = compare(sources)
    assert [(pair.a, pair.b) for pair in found.pairs] == [(0, 1), (0, 2)]
    values = sorted(pair.test.p_value for pair in found.pairs)
    assert sorted(pair.corrected for pair in found.pairs) == pytest.approx(
        [2 * values[0], max(2 * values[0], values[1])]
    )
    assert [(pair.a, pair.b) for pair in compare(sources, all_pairs=True).pairs] == [(0, 1), (0, 2), (1, 2)]


def test_other_test_items_are_refused_with_their_differences() -> None:
    items = qa_items(WEAK)
    changed = items.assign(answer=["green", *items["answer"][1:]]).iloc[:-2]
    extra = qa_items(WEAK + [1.0] * 4).iloc[[100, 101, 102, 103]]
    with pytest.raises(ClipBertError) as error:
        compare([make_source("a", items), make_source("b", pd.concat([changed, extra]))])
    message = str(error.value)
    assert "a and b were evaluated on different test items of open_qa" in message
    assert "2 items are only in a: q098, q099" in message
    assert "4 items are only in b: q100, q101, q102, and 1 more" in message
    assert "answer differs in 1 item: q000 ('red' and 'green')" in message
    assert "git checkout REVISION data.dvc" in message


def test_other_media_with_equal_texts_are_refused() -> None:
    with pytest.raises(ClipBertError, match="same texts and answers, but their digests differ"):
        compare(
            [make_source("a", qa_items(WEAK)), make_source("b", qa_items(WEAK), conditions={"test_items": "e" * 64})]
        )


def test_lists_in_items_are_compared_by_their_content() -> None:
    def choices(options: list[str]) -> Source:
        items = qa_items([1.0, 0.0]).assign(options=[np.array(options), np.array(["x", "y"])], right=0)
        return make_source("_".join(options), items, "multiple_choice")

    assert compare([choices(["x", "y"]), choices(["x", "y"])]).pairs[0].same
    with pytest.raises(ClipBertError, match="options differs in 1 item: q000 \\(\\['x', 'y'\\] and \\['x', 'z'\\]\\)"):
        compare([choices(["x", "y"]), choices(["x", "z"])])


def test_models_of_other_tasks_or_scoring_code_are_refused() -> None:
    a = make_source("a", qa_items(WEAK))
    with pytest.raises(ClipBertError, match=r"a is a model of open_qa .* and b one of image_qa"):
        compare([a, replace(a, name="b", task="image_qa")])
    with pytest.raises(ClipBertError, match=r"different versions of the scoring code \(2 and 1\)"):
        compare([a, make_source("b", qa_items(WEAK), conditions={"scoring": 1})])
    with pytest.raises(ClipBertError, match="at least two models"):
        compare([a])


def test_a_rank_that_is_not_a_number_is_an_error_with_the_item() -> None:
    ranks = [1.0, float("nan"), 3.0]
    with pytest.raises(ClipBertError, match="b: the rank of c001 is not a finite number"):
        compare(
            [make_source("a", ranked_items([1, 2, 3]), "retrieval"), make_source("b", ranked_items(ranks), "retrieval")]
        )
    without = make_source("b", ranked_items([1, 2, 3]).drop(columns="rank"), "retrieval")
    with pytest.raises(ClipBertError, match="b: its predictions lack the column\\(s\\) rank"):
        compare([make_source("a", ranked_items([1, 2, 3]), "retrieval"), without])


def test_seeds_are_grouped_and_their_noise_is_reported() -> None:
    generator = np.random.default_rng(3)
    levels = [("0.1", 0.31), ("0.1", 0.3), ("0.2", 0.62), ("0.2", 0.66), ("0.2", 0.64)]
    sources = [
        seeded(f"m{i}", list((generator.random(400) < p).astype(float)), i, lr) for i, (lr, p) in enumerate(levels)
    ]
    found = compare(sources, by_seed=True)
    assert [side.name for side in found.sides] == ["train.lr=0.1 (2 seeds)", "train.lr=0.2 (3 seeds)"]
    assert [side.seeds for side in found.sides] == [["0", "1"], ["2", "3", "4"]]
    (pair,) = found.pairs
    effect = pair.effects["accuracy"]
    assert isinstance(effect, SeedEffect)
    means = [100 * np.mean([s.items["score"].mean() for s in side.sources]) for side in found.sides]
    assert (effect.a, effect.b) == pytest.approx(means)
    assert pair.test.name == "t test of accuracy over items and seeds"
    assert pair.test.p_value == effect.p_value
    assert pair.kind == "good"
    metrics = to_metrics(found)
    prefix = "open_qa/train.lr_0.2_3_seeds_vs_train.lr_0.1_2_seeds"
    assert metrics[f"{prefix}/accuracy_error_of_seeds"] == pytest.approx(effect.seeds_error, abs=1e-3)
    assert metrics[f"{prefix}/accuracy_error_of_items"] == pytest.approx(effect.items_error, abs=1e-3)


def test_too_few_seeds_are_called_so() -> None:
    generator = np.random.default_rng(4)
    levels = [("0.1", 0.2), ("0.1", 0.6), ("0.2", 0.3), ("0.2", 0.7)]
    sources = [
        seeded(f"m{i}", list((generator.random(300) < p).astype(float)), i, lr) for i, (lr, p) in enumerate(levels)
    ]
    (pair,) = compare(sources, by_seed=True).pairs
    assert pair.kind == "unclear"
    assert pair.finding.startswith("2 seeds are too few to tell train.lr=0.2 (2 seeds) from train.lr=0.1 (2 seeds)")


@pytest.mark.parametrize(
    ("trainings", "message"),
    [
        ([(0, "0.1"), (1, "0.1")], "All 2 trainings differ in the seed only"),
        (
            [(0, "0.1"), (1, "0.1"), (0, "0.2")],
            r"m2 has the only seed \(0\) of its parameters.*\n.*\n.*\n.*differs in train.lr",
        ),
        ([(0, "0.1"), (0, "0.1"), (0, "0.2")], r"m0 and m1 have the same parameters and the same seed \(0\)"),
    ],
)
def test_groups_without_several_seeds_are_refused(trainings: list[tuple[int, str]], message: str) -> None:
    sources = [seeded(f"m{i}", WEAK, seed, lr) for i, (seed, lr) in enumerate(trainings)]
    with pytest.raises(ClipBertError, match=message):
        compare(sources, by_seed=True)


def test_a_training_without_a_recorded_seed_cannot_be_grouped() -> None:
    with pytest.raises(ClipBertError, match=r"a .* do not contain the seed"):
        compare([make_source("a", qa_items(WEAK)), make_source("b", qa_items(WEAK))], by_seed=True)


def test_metrics_are_flat_finite_numbers_with_names_that_mlflow_takes() -> None:
    found = compare([make_source("models:/m@x", qa_items(WEAK)), make_source("b c", qa_items(STRONG))])
    metrics = to_metrics(found)
    assert metrics["open_qa/b_c_vs_models_m_x/accuracy_difference"] == 40
    assert metrics["open_qa/b_c_vs_models_m_x/won"] == 40
    assert all(np.isfinite(value) for value in metrics.values())
    values = json.loads(json.dumps(to_json(found), allow_nan=False))
    assert values["comparisons"][0]["won"][0] == "q020"
    assert values["models"][0]["trainings"][0]["cost"]["flops"] is None


def test_differing_settings_and_costs_for_a_reader() -> None:
    a = make_source("a", qa_items(WEAK), params={"train.lr": "1", "seed": "0"}, origin={"data": "x"})
    b = make_source("b", qa_items(WEAK), params={"train.lr": "2", "seed": "0"}, conditions={"clips": 4})
    assert differing_settings([a, b]) == {
        "data": ["x", "not recorded"],
        "evaluated with clips": ["2", "4"],
        "train.lr": ["1", "2"],
    }
    values = {"seconds": 147.3, "flops": 2.9e15, "joules": 12_500, "parameters": 1.2e6, "ms_per_item": 223.4}
    shown = [format_cost(key, value) for key, value in values.items()]
    assert shown == ["2 min 27 s", "2.9 PFLOP", "12.5 kJ", "1.2 M", "223 ms"]
    assert format_cost("seconds", 3 * 3600 + 120) == "3 h 02 min"
    assert format_cost("ms_per_item", 1380) == "1.38 s"
    assert format_cost("joules", None) == "not recorded"
