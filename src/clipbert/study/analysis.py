"""What a study says: means over seeds with intervals, effects of each axis, the Pareto front, and the choice.

Every figure here that a choice depends on is of the validation split.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

from clipbert.config.tasks import TasksParams
from clipbert.errors import ClipBertError
from clipbert.evaluation.comparison.effects import (
    BlockedEffect,
    Effect,
    SeedMean,
    blocked_effects,
    paired_effects,
    seed_means,
)
from clipbert.evaluation.comparison.paired_tests import holm
from clipbert.evaluation.metrics.intervals import Statistic
from clipbert.evaluation.predictions_file import read_predictions_file
from clipbert.study.plan import BASE, Plan, Setting
from clipbert.study.records import Evaluated, Record
from clipbert.tasks import make_task, task_class

SIGNIFICANT = 0.05
TFLOP, MS = "tflop", "ms_per_item"
Statistics = Mapping[str, Statistic]


@dataclass(frozen=True)
class Row:
    """A setting with one way to evaluate it.

    Attributes:
        label: of the setting; "base" is the study's base.
        changes: the parameters that differ from the base.
        clips, aggregation: of the evaluation.
        own: whether the aggregation is the one that the model was trained with.
        mean: of the headline metric on the validation split.
        values: the metric of each seed.
        seeds: that are finished.
        cost: means over the seeds of the training's cost and of `ms_per_item`.
        test: mean over the seeds of the headline metric on the test split; None for other clips or aggregations than
            those of the pipeline's evaluation.
        experiments: the DVC experiments.
        pareto: whether it is better than every cheaper row.
        repeatable: whether parameters give this setting: an aggregation that the model was not trained with can be set
            before a training with one clip only, where it changes nothing else.
    """

    label: str
    changes: dict[str, Any]
    clips: int
    aggregation: str
    own: bool
    mean: SeedMean
    values: tuple[float, ...]
    seeds: tuple[int, ...]
    cost: dict[str, float]
    test: float | None
    experiments: tuple[str, ...]
    repeatable: bool
    pareto: bool = False

    @property
    def name(self) -> str:
        """The setting and its evaluation in words."""
        clips = "1 clip" if self.clips == 1 else f"{self.clips} clips"
        return f"{self.label}; {clips}, {self.aggregation}"


@dataclass(frozen=True)
class AxisRow:
    """A setting of an axis compared with the reference of the axis, which has no effect itself.

    Attributes:
        effect: the difference from the reference; with one seed it has the noise of the test items alone.
        p_value: corrected for the number of comparisons of the study (Holm); None with one seed.
    """

    label: str
    row: Row
    effect: Effect | None
    p_value: float | None = None


@dataclass(frozen=True)
class AxisTable:
    """The answer to one question: does this axis matter?"""

    name: str
    rows: tuple[AxisRow, ...]
    finding: str


@dataclass(frozen=True)
class Analysis:
    """Result of a study.

    Attributes:
        metric: the headline metric, as "R@1".
        cost: the quantity by which settings are compared, "tflop" or "ms_per_item".
        rows: the best first.
        best: the row with the highest mean among those that parameters give.
        choice: the cheapest of those within one standard error of the best.
        missing: experiments that are not finished.
    """

    metric: str
    cost: str
    rows: tuple[Row, ...]
    axes: tuple[AxisTable, ...]
    best: Row
    choice: Row
    missing: tuple[str, ...]


def analyze(plan: Plan, records: Mapping[str, Record], points: Path) -> Analysis:
    """Return what the finished points of a study say.

    Args:
        points: the folder with a folder for each point.

    Raises:
        ClipBertError: no point of the base is finished, or predictions are damaged or of other items.
    """
    headline = task_class(plan.grid.task).report.headlines[0]
    metric = f"{plan.grid.task}/{headline.metric}"
    cost = TFLOP if plan.grid.budget.unit == "steps" else MS
    of_setting: dict[str, dict[int, Record]] = {}
    missing = []
    for point in plan.points:
        if point.name in records:
            of_setting.setdefault(point.setting.label, {})[point.seed] = records[point.name]
        else:
            missing.append(point.name)
    if BASE not in of_setting:
        raise ClipBertError(f"{points}: no training of the base is finished, so there is nothing to compare with.")
    reader = _StatisticsReader(plan.grid.task, points)
    rows: list[Row] = []
    statistics: dict[str, list[Statistics]] = {}
    for setting in plan.settings:
        if setting.label in of_setting:
            for row, some in _rows(plan, setting, of_setting[setting.label], metric, reader):
                rows.append(row)
                statistics[row.name] = some
    rows.sort(key=lambda row: (-row.mean.value, _price(row, cost)))
    rows = _with_front(rows, cost)
    axes = _axes(plan, rows, statistics, metric)
    best = next(row for row in rows if row.repeatable)
    return Analysis(headline.card, cost, tuple(rows), axes, best, choose(rows, cost), tuple(missing))


def choose(rows: Sequence[Row], cost: str) -> Row:
    """Return the cheapest setting within one standard error of the best.

    The rule of Breiman, Friedman, Olshen and Stone (Classification and Regression Trees, 1984, section 3.4.3), with the
    standard error of the best mean over videos and seeds. Only settings that parameters give are considered.
    """
    usable = [row for row in rows if row.repeatable]
    best = max(usable, key=lambda row: row.mean.value)
    enough = [row for row in usable if row.mean.value >= best.mean.value - best.mean.standard_error]
    return min(enough, key=lambda row: (*_price(row, cost), -row.mean.value))


def _price(row: Row, cost: str) -> tuple[float, float, bool]:
    """Return the cost by which rows are ordered.

    Trainings of equal cost are ordered by the clips of an evaluation, and the model's own aggregation comes first.
    """
    return row.cost.get(cost, 0.0), row.clips, not row.own


def _with_front(rows: Sequence[Row], cost: str) -> list[Row]:
    """Return the rows with those of the Pareto front marked: better than everything that is cheaper."""
    highest, front = float("-inf"), set()
    for row in sorted(rows, key=lambda one: (*_price(one, cost), -one.mean.value)):
        if row.mean.value > highest:
            highest = row.mean.value
            front.add(row.name)
    return [replace(row, pareto=row.name in front) for row in rows]


class _StatisticsReader:
    """Reads validation predictions as statistics of the task, and checks that all are of the same items."""

    def __init__(self, task: str, points: Path) -> None:
        self.task, self.points = task, points
        self.items: list[str] | None = None

    def read(self, name: str, evaluated: Evaluated) -> Statistics:
        path = self.points / name / evaluated.file
        table, _ = read_predictions_file(path, self.task)
        found = [str(one) for one in table["item_id"]]
        self.items = self.items or found
        if found != self.items:
            raise ClipBertError(
                f"{path}: expected predictions of the same validation items as the other points, found others. Remove "
                "the folder of the point and run the study again."
            )
        return _evaluator(self.task).statistics(table)


def _evaluator(task: str) -> Any:
    return make_task(task, TasksParams()).evaluator


def _rows(
    plan: Plan, setting: Setting, of_seed: Mapping[int, Record], metric: str, reader: _StatisticsReader
) -> list[tuple[Row, list[Statistics]]]:
    """Return a row for each evaluation of a setting, with the statistics of each seed."""
    found, records = [], list(of_seed.values())
    percent = task_class(plan.grid.task).report.headlines[0].percent
    costs = {name for record in records for name in record.cost}
    cost = {name: fmean(record.cost[name] for record in records if name in record.cost) for name in sorted(costs)}
    for evaluated in records[0].evaluations:
        if evaluated.clips == 1 and not evaluated.own:
            continue  # nothing is aggregated
        same = [_same(record, evaluated) for record in records]
        statistics = [reader.read(record.name, one) for record, one in zip(records, same, strict=True)]
        is_pipeline = evaluated.own and evaluated.clips == plan.base_clips
        test = [record.test[metric] for record in records if metric in record.test]
        mean = seed_means(statistics)[metric]
        row = Row(
            label=setting.label,
            changes=setting.changes,
            clips=evaluated.clips,
            aggregation=evaluated.aggregation,
            own=evaluated.own,
            mean=_within_percent(mean) if percent else mean,
            values=tuple(some[metric].value() for some in statistics),
            seeds=tuple(of_seed),
            cost={**cost, MS: fmean(one.ms_per_item for one in same)},
            test=fmean(test) if test and is_pipeline else None,
            experiments=tuple(record.name for record in records),
            repeatable=evaluated.own or evaluated.training_clips == 1,
        )
        found.append((row, statistics))
    return found


def _within_percent(mean: SeedMean) -> SeedMean:
    """Return a mean of percentages with its interval cut at 0 and 100: the t distribution knows no limits."""
    return replace(mean, low=max(0.0, mean.low), high=min(100.0, mean.high))


def _same(record: Record, evaluated: Evaluated) -> Evaluated:
    return next(
        one for one in record.evaluations if (one.clips, one.aggregation) == (evaluated.clips, evaluated.aggregation)
    )


def _axes(
    plan: Plan, rows: Sequence[Row], statistics: Mapping[str, list[Statistics]], metric: str
) -> tuple[AxisTable, ...]:
    """Return the table of each axis of the training, and of the axes of the evaluation."""
    usual = {row.label: row for row in rows if row.own and row.clips == plan.base_clips}
    named = [
        (axis.name, [(label, usual[setting]) for label, setting in axis.settings if setting in usual])
        for axis in plan.axes
    ]
    base = [row for row in rows if row.label == BASE]
    own = sorted((row for row in base if row.own), key=lambda row: row.clips)
    if len(own) > 1:
        named.append(("clips in evaluation", [(f"clips={row.clips}", row) for row in own]))
    several = max(plan.base_clips, *plan.clips) if plan.base_clips == 1 else plan.base_clips
    others = sorted((row for row in base if row.clips == several), key=lambda row: not row.own)
    if len(others) > 1:
        title = f"score aggregation in evaluation, {several} clips"
        named.append((title, [(row.aggregation, row) for row in others]))
    tables = [(name, _with_effects(some, usual[BASE], statistics, metric)) for name, some in named]
    flat = [row for _, some in tables for row in some if row.p_value is not None]
    corrected = dict(zip(map(id, flat), holm([row.p_value for row in flat if row.p_value is not None]), strict=True))
    found = []
    for name, some in tables:
        final = tuple(replace(row, p_value=corrected.get(id(row))) for row in some)
        found.append(AxisTable(name, final, _finding(final)))
    return tuple(found)


def _with_effects(
    settings: Sequence[tuple[str, Row]], base: Row, statistics: Mapping[str, list[Statistics]], metric: str
) -> list[AxisRow]:
    """Return the settings with their effects against the base of the study, or else the first setting of the axis."""
    reference = next((row for _, row in settings if row.name == base.name), settings[0][1])
    found = []
    for label, row in settings:
        if row.name == reference.name:
            found.append(AxisRow(label, row, None))
            continue
        shared = [seed for seed in reference.seeds if seed in row.seeds]
        if not shared:
            continue
        a, b = ([statistics[one.name][one.seeds.index(seed)] for seed in shared] for one in (reference, row))
        if len(shared) < 2:
            found.append(AxisRow(label, row, paired_effects(a[0], b[0])[metric]))
            continue
        effect: BlockedEffect = blocked_effects(a, b)[metric]
        found.append(AxisRow(label, row, effect, effect.p_value))
    return found


def _finding(rows: Sequence[AxisRow]) -> str:
    """Return in words whether an axis matters."""
    reference = next(row for row in rows if row.effect is None)
    clear = [row for row in rows if row.effect is not None and row.p_value is not None and row.p_value < SIGNIFICANT]
    if any(row.effect is not None and row.p_value is None for row in rows):
        return "One seed says nothing about the noise of seeds: no finding."
    if not clear:
        widest = max((row.effect for row in rows if row.effect), key=lambda one: one.high - one.low, default=None)
        limits = "" if widest is None else f"; the widest interval is {widest.low:+.1f} to {widest.high:+.1f} points"
        return f"No clear difference from {reference.label}{limits}."
    words = [
        f"{row.label} is {abs(row.effect.difference):.1f} points {'better' if row.effect.difference > 0 else 'worse'}"
        for row in clear
        if row.effect is not None
    ]
    return f"It matters: {' and '.join(words)} than {reference.label}."
