"""The comparison of evaluated models: effects, tests and items won and lost of each pair, and findings in words."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, Literal

import numpy as np
import pandas as pd

from clipbert.config.tasks import TasksParams
from clipbert.errors import ClipBertError
from clipbert.evaluation.comparison.effects import Effect, SeedEffect, paired_effects, seed_effects
from clipbert.evaluation.comparison.grouping import Side, group_by_seed
from clipbert.evaluation.comparison.item_matching import same_items
from clipbert.evaluation.comparison.paired_tests import PairedTest, holm, mcnemar, wilcoxon
from clipbert.evaluation.comparison.source import Source
from clipbert.evaluation.metrics.intervals import Statistic
from clipbert.tasks import make_task, task_class
from clipbert.tasks.presentation import Headline, Report

SIGNIFICANCE = 0.05
TOO_WIDE = 30.0  # percentage points of an interval from which on the test set is too small, as in the verdicts


@dataclass(frozen=True)
class Pair:
    """The comparison of side B with side A.

    Attributes:
        a, b: positions in `Comparison.sides`.
        effects: by the name of the metric after `TASK/`, the headlines first.
        test: the paired test; with several seeds its p-value is that of the main metric over items and seeds.
        corrected: the p-value after Holm's correction over all pairs.
        won, lost: ids of the items on which B is better and worse, the largest difference first.
        same: whether all predictions are equal.
        kind, finding: the result in words, and whether it speaks for B.
    """

    a: int
    b: int
    effects: dict[str, Effect]
    test: PairedTest
    corrected: float
    won: list[str]
    lost: list[str]
    same: bool
    kind: Literal["good", "bad", "unclear"]
    finding: str


@dataclass(frozen=True)
class Comparison:
    """Several models on the same test items.

    Attributes:
        task: of all of them.
        sides: what is compared: a model, or the trainings of one configuration with several seeds.
        tables: the predictions of each side's sources, all in the same order of items.
        headlines: the metrics that are shown, those that all sides have.
        pairs: each side with the first one, or all pairs.
        videos: number of test videos.
    """

    task: str
    sides: list[Side]
    tables: list[list[pd.DataFrame]]
    headlines: list[Headline]
    pairs: list[Pair]
    videos: int

    @property
    def items(self) -> int:
        """Number of test items."""
        return len(self.tables[0][0])

    @property
    def sources(self) -> list[Source]:
        """The models of all sides."""
        return [source for side in self.sides for source in side.sources]


def compare(sources: Sequence[Source], by_seed: bool = False, all_pairs: bool = False) -> Comparison:
    """Compare evaluated models on the same test items, each with the first one.

    Args:
        sources: at least two.
        by_seed: group trainings that differ in the parameter `seed` only, and compare the groups.
        all_pairs: compare every pair.

    Raises:
        ClipBertError: fewer than two models, other test items, or groups without several seeds.
    """
    if len(sources) < 2:
        raise ClipBertError("A comparison needs at least two models: `clipbert compare A B`.")
    aligned = same_items(sources)
    task, report = sources[0].task, task_class(sources[0].task).report
    _check_columns(sources, report)
    tables = {id(source): table for source, table in zip(sources, aligned, strict=True)}
    sides = group_by_seed(sources) if by_seed else [Side(source.name, (source,)) for source in sources]
    of_sides = [[tables[id(source)] for source in side.sources] for side in sides]
    evaluator = make_task(task, TasksParams()).evaluator
    statistics = [[evaluator.statistics(table.reset_index(drop=True)) for table in some] for some in of_sides]
    shared = set.intersection(*(set(found) for some in statistics for found in some))
    headlines = [shown for shown in report.headlines if f"{task}/{shown.metric}" in shared]
    videos = aligned[0]["media"].to_numpy()
    number = len(np.unique(videos.astype(str)))

    chosen = combinations(range(len(sides)), 2) if all_pairs else ((0, other) for other in range(1, len(sides)))
    found = []
    for a, b in chosen:
        effects = _effects(task, headlines, statistics[a], statistics[b], by_seed)
        test = _test(report, of_sides[a], of_sides[b], videos)
        if by_seed:
            main = effects[headlines[0].metric]
            assert isinstance(main, SeedEffect)
            test = PairedTest(
                f"t test of {headlines[0].card} over items and seeds",
                main.p_value,
                test.won,
                test.lost,
                test.tied,
                test.clustered,
            )
        found.append((a, b, effects, test))
    pairs = []
    for (a, b, effects, test), corrected in zip(found, holm([test.p_value for *_, test in found]), strict=True):
        won, lost = items_won_and_lost(report, of_sides[a], of_sides[b])
        same = not by_seed and _same_predictions(of_sides[a][0], of_sides[b][0])
        names = sides[a].name, sides[b].name
        seeds = min(len(of_sides[a]), len(of_sides[b]))
        main = effects[headlines[0].metric]
        kind, finding = _finding(names, headlines[0], main, test, corrected, same, number, seeds)
        pairs.append(Pair(a, b, effects, test, corrected, won, lost, same, kind, finding))
    return Comparison(task, sides, of_sides, headlines, pairs, number)


def items_won_and_lost(report: Report, a: list[pd.DataFrame], b: list[pd.DataFrame]) -> tuple[list[str], list[str]]:
    """Return the ids of the items on which B is better and worse, the largest difference first."""
    gains = _values(report, b) - _values(report, a)
    if report.paired_lower_is_better:
        gains = -gains
    order = np.argsort(-np.abs(gains), kind="stable")
    ids = a[0].index.to_numpy()
    return [str(ids[i]) for i in order if gains[i] > 0], [str(ids[i]) for i in order if gains[i] < 0]


def signed(shown: Headline, value: float) -> str:
    """Return the difference of a headline metric with its sign."""
    return f"{value:+.1f}{' points' if shown.percent else ''}"


def format_p(value: float) -> str:
    """Return a p-value for a reader."""
    return "p < 0.001" if value < 0.001 else f"p = {value:.3f}" if value < 0.1 else f"p = {value:.2f}"


def _effects(
    task: str,
    headlines: list[Headline],
    a: list[dict[str, Statistic]],
    b: list[dict[str, Statistic]],
    by_seed: bool,
) -> dict[str, Effect]:
    """Return the effects by the name after `TASK/`, the headlines first."""
    found = seed_effects(a, b) if by_seed else paired_effects(a[0], b[0])
    first = [f"{task}/{shown.metric}" for shown in headlines]
    ordered = [*first, *(name for name in found if name not in first)]
    return {name.removeprefix(f"{task}/"): found[name] for name in ordered}


def _test(report: Report, a: list[pd.DataFrame], b: list[pd.DataFrame], videos: Any) -> PairedTest:
    if report.paired_test == "mcnemar" and len(a) == len(b) == 1:
        return mcnemar(_values(report, a), _values(report, b), videos)
    return wilcoxon(_values(report, a), _values(report, b), videos, report.paired_lower_is_better)


def _values(report: Report, tables: list[pd.DataFrame]) -> Any:
    """Return the values (N,) that are compared, the mean over several trainings."""
    return np.mean([table[report.paired_column].to_numpy(dtype=float) for table in tables], axis=0)


def _check_columns(sources: Sequence[Source], report: Report) -> None:
    """Check that all predictions have the columns that are compared, with finite values."""
    for source in sources:
        again = f"Evaluate {source.name} ({source.place}) again: `clipbert evaluate {source.task}`."
        if missing := [name for name in ("media", report.paired_column) if name not in source.items]:
            raise ClipBertError(
                f"{source.name}: its predictions lack the column(s) {', '.join(missing)}; an older version of clipbert "
                f"made them. {again}"
            )
        values = source.items[report.paired_column].to_numpy(dtype=float)
        if not (finite := np.isfinite(values)).all():
            item = source.items.index[int(np.flatnonzero(~finite)[0])]
            raise ClipBertError(f"{source.name}: the {report.paired_column} of {item} is not a finite number. {again}")


def _same_predictions(a: pd.DataFrame, b: pd.DataFrame) -> bool:
    columns = [name for name in ("score", "rank", "predicted", "confidence", "log_probability") if name in a]
    return all(name in b and a[name].equals(b[name]) for name in columns)


def _finding(
    names: tuple[str, str],
    shown: Headline,
    effect: Effect,
    test: PairedTest,
    corrected: float,
    same: bool,
    videos: int,
    seeds: int,
) -> tuple[Literal["good", "bad", "unclear"], str]:
    """Return what a pair shows, by the interval of the main metric and the corrected test together."""
    a, b = names
    if same:
        return "unclear", (
            f"{a} and {b} have the same predictions: what differs in their parameters has no effect, or one was not "
            "evaluated."
        )
    if np.isnan(effect.low):
        return "unclear", "One test video is too few to compare models: it gives no interval."
    figures = (
        f"{shown.card} {signed(shown, effect.difference)} (95 % interval {effect.low:+.1f} to {effect.high:+.1f}), "
        f"{test.name} {format_p(corrected)}"
    )
    if test.won and not test.lost and not test.tied:
        figures += ", better on every item"
    is_significant = corrected < SIGNIFICANCE
    if effect.excludes_zero and is_significant:
        word = "better" if effect.difference > 0 else "worse"
        return ("good" if effect.difference > 0 else "bad"), f"{b} is {word} than {a}: {figures}."
    if shown.percent and effect.high - effect.low > TOO_WIDE:
        few = f"{videos} test videos"
        if isinstance(effect, SeedEffect) and effect.seeds_error > effect.items_error:
            few = f"{seeds} seeds"
        return "unclear", f"{few} are too few to tell {b} from {a}: {figures}."
    if effect.excludes_zero:
        return (
            "unclear",
            f"Not settled whether {b} differs from {a}: the interval and the test disagree: {figures}.",
        )
    if is_significant:
        direction = "better" if test.won > test.lost else "worse"
        return "unclear", (
            f"{b} is {direction} than {a} item by item ({test.won} won, {test.lost} lost), but not clearly in "
            f"{shown.card}: {figures}."
        )
    return "unclear", f"No clear difference between {b} and {a}: {figures}."
