"""The result of a study on the terminal: a table of settings, a table per axis, and the choice."""

from collections.abc import Iterator
from typing import Any

from rich import box
from rich.table import Table

from clipbert.study.analysis import MS, TFLOP, Analysis, AxisTable, Row
from clipbert.study.plan import Plan

SHOWN_ROWS = 12
COST_WORDS = {TFLOP: "training,\nTFLOP", MS: "evaluation,\nms per item"}


def result_lines(plan: Plan, analysis: Analysis) -> Iterator[Any]:
    """Yield what `clipbert study` prints: tables and sentences."""
    yield _settings(plan, analysis)
    for axis in analysis.axes:
        yield _axis(axis, analysis)
        yield axis.finding
    yield from answer(analysis)
    if analysis.missing:
        yield f"Not finished: {', '.join(analysis.missing)}."


def answer(analysis: Analysis) -> Iterator[str]:
    """Yield the choice of the study in sentences."""
    best, choice = analysis.best, analysis.choice
    error = best.mean.standard_error
    yield f"Best on validation: {best.name}: {analysis.metric} {mean_text(best)}, standard error {error:.1f}."
    if choice.name == best.name:
        yield "No cheaper setting is within one standard error of it."
        return
    times = best.cost.get(analysis.cost, 0.0) / choice.cost[analysis.cost] if choice.cost.get(analysis.cost) else 0.0
    cheaper = f", at {1 / times:.0%} of its cost" if times > 1.005 else ""
    yield f"Cheapest within one standard error of it: {choice.name}: {analysis.metric} {mean_text(choice)}{cheaper}."


def mean_text(row: Row) -> str:
    """Return a mean with its interval: "43.1 (38.0 to 48.2)"."""
    return f"{row.mean.value:.1f} ({row.mean.low:.1f} to {row.mean.high:.1f})"


def seeds_text(row: Row) -> str:
    """Return the value of each seed."""
    return ", ".join(f"{value:.1f}" for value in row.values)


def _settings(plan: Plan, analysis: Analysis) -> Table:
    shown = [row for row in analysis.rows if row.pareto or row in (analysis.best, analysis.choice)]
    shown += [row for row in analysis.rows if row not in shown][: max(0, SHOWN_ROWS - len(shown))]
    hidden = len(analysis.rows) - len(shown)
    title = f"{plan.grid.name}: {plan.grid.task}, {plan.grid.budget_text}, {len(plan.grid.seeds)} seeds"
    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("setting", overflow="fold")
    table.add_column(f"validation {analysis.metric}\n(95 %)", justify="right", no_wrap=True)
    table.add_column("of each seed", justify="right", no_wrap=True)
    table.add_column(COST_WORDS[analysis.cost], justify="right", no_wrap=True)
    table.add_column("training,\ns", justify="right", no_wrap=True)
    table.add_column("Pareto\nfront", justify="center", no_wrap=True)
    for row in sorted(shown, key=lambda one: -one.mean.value):
        table.add_row(
            row.name,
            mean_text(row),
            seeds_text(row),
            cost_text(row, analysis.cost),
            cost_text(row, "seconds"),
            "*" if row.pareto else "",
        )
    if hidden:
        table.caption = f"{hidden} more are in study.json and on the page."
        table.caption_justify = "left"
    return table


def _axis(axis: AxisTable, analysis: Analysis) -> Table:
    table = Table(title=axis.name, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("setting", overflow="fold")
    table.add_column(f"validation {analysis.metric}\n(95 %)", justify="right", no_wrap=True)
    table.add_column("effect (95 %)", justify="right", no_wrap=True)
    table.add_column("p (Holm)", justify="right", no_wrap=True)
    table.add_column(COST_WORDS[analysis.cost], justify="right", no_wrap=True)
    for one in axis.rows:
        effect = "reference" if one.effect is None else effect_text(one.effect)
        p_value = "" if one.p_value is None else f"{one.p_value:.3f}"
        table.add_row(one.label, mean_text(one.row), effect, p_value, cost_text(one.row, analysis.cost))
    return table


def effect_text(effect: Any) -> str:
    """Return an effect with its interval: "+3.1 (-0.4 to 6.6)"."""
    return f"{effect.difference:+.1f} ({effect.low:.1f} to {effect.high:.1f})"


def cost_text(row: Row, cost: str) -> str:
    """Return a cost of a row, "-" where it was not recorded."""
    return "-" if cost not in row.cost else f"{row.cost[cost]:.3g}"
