"""A comparison as tables for the terminal, at most 100 columns wide."""

from collections.abc import Iterator

import numpy as np
from rich import box
from rich.console import RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from clipbert.evaluation.comparison.effects import SeedEffect
from clipbert.evaluation.comparison.page import metric_value
from clipbert.evaluation.comparison.result import Comparison, Pair, format_p, signed
from clipbert.evaluation.comparison.source import COSTS, Source, differing_settings, format_cost, shorten

MANY = 3  # models from which on a pair is one line, and parameters are listed by model
SHOWN = 3  # items won and lost
STYLES = {"good": "green", "bad": "red", "unclear": "yellow"}


def comparison_tables(comparison: Comparison) -> Iterator[RenderableType]:
    """Yield the parts of the output: models, pairs, findings, cost and differing parameters."""
    trainings = f" ({len(comparison.sources)} trainings)" if len(comparison.sources) > len(comparison.sides) else ""
    yield Text(
        f"{comparison.task}: {len(comparison.sides)} models{trainings} on the same {comparison.items} test items of "
        f"{comparison.videos} videos\n"
    )
    yield _models(comparison)
    if len(comparison.pairs) > MANY:
        yield _pairs(comparison)
    for pair in comparison.pairs:
        if len(comparison.pairs) <= MANY:
            yield _effects(comparison, pair)
            yield _details(comparison, pair)
        else:
            yield Text(pair.finding, STYLES[pair.kind])
    yield Text("")
    yield _costs(comparison.sources)
    yield _differing(comparison.sources)


def _table(title: str, *columns: str) -> Table:
    """Return a table whose first column is text and whose others are numbers."""
    table = Table(
        title=Text(title), title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False, expand=False
    )
    for number, column in enumerate(columns):
        table.add_column(Text(column), justify="right" if number else "left", overflow="fold", no_wrap=number > 0)
    return table


def _models(comparison: Comparison) -> Table:
    table = _table("Models", "model", *(shown.card for shown in comparison.headlines))
    for number, side in enumerate(comparison.sides):
        pair = next(pair for pair in comparison.pairs if number in (pair.a, pair.b))
        values = [
            metric_value(shown, effect.a if number == pair.a else effect.b)
            for shown in comparison.headlines
            for effect in (pair.effects[shown.metric],)
        ]
        places = "\n".join(
            source.place if len(side.sources) == 1 else f"{source.name}: seed {source.params['seed']}, {source.place}"
            for source in side.sources
        )
        table.add_row(Text.assemble(side.name, "\n", (places, "dim")), *map(Text, values))
    return table


def _interval(low: float, high: float) -> str:
    return "none" if np.isnan(low) else f"{low:+.1f} to {high:+.1f}"


def _pairs(comparison: Comparison) -> Table:
    """Return one line per pair, for many models."""
    main = comparison.headlines[0]
    columns = ("models", main.card, "95 % interval", "won", "lost", "p", "p (Holm)")
    table = _table(f"Differences of {main.card}", *columns)
    for pair in comparison.pairs:
        effect = pair.effects[main.metric]
        table.add_row(
            Text(f"{comparison.sides[pair.b].name} - {comparison.sides[pair.a].name}"),
            signed(main, effect.difference),
            _interval(effect.low, effect.high),
            str(pair.test.won),
            str(pair.test.lost),
            format_p(pair.test.p_value).removeprefix("p ").removeprefix("= "),
            format_p(pair.corrected).removeprefix("p ").removeprefix("= "),
        )
    return table


def _effects(comparison: Comparison, pair: Pair) -> Table:
    by_seed = any(isinstance(effect, SeedEffect) for effect in pair.effects.values())
    errors = ("SE of videos", "SE of seeds") if by_seed else ()
    title = f"{comparison.sides[pair.b].name} compared with {comparison.sides[pair.a].name}"
    table = _table(title, "metric", "difference", "95 % interval", *errors)
    for shown in comparison.headlines:
        effect = pair.effects[shown.metric]
        cells = [signed(shown, effect.difference), _interval(effect.low, effect.high)]
        if isinstance(effect, SeedEffect):
            cells += [f"{effect.items_error:.2f}", f"{effect.seeds_error:.2f}"]
        table.add_row(Text(shown.card), *cells)
    return table


def _details(comparison: Comparison, pair: Pair) -> Padding:
    test = pair.test
    corrected = f", after Holm's correction {format_p(pair.corrected)}" if len(comparison.pairs) > 1 else ""
    units = " (videos are the units)" if test.clustered and "t test" not in test.name else ""
    lines = [f"{test.name}{units}: {format_p(test.p_value)}{corrected}"]
    media = comparison.tables[pair.a][0]["media"]
    for words, ids in (("won", pair.won), ("lost", pair.lost)):
        some = ", ".join(f"{item} ({media[item]})" for item in ids[:SHOWN])
        lines.append(f"{len(ids)} items {words}{f', first {some}' if ids else ''}")
    lines.append(f"{test.tied} items equal")
    text = Text("\n".join(lines))
    text.append(f"\n{pair.finding}", STYLES[pair.kind])
    return Padding(text, (0, 0, 1, 0))


def _costs(sources: list[Source]) -> Table:
    table = _table("Cost", "", *(words for words, _ in COSTS.values()))
    for source in sources:
        table.add_row(Text(source.name), *(format_cost(key, source.cost.get(key)) for key in COSTS))
    return table


def _differing(sources: list[Source]) -> RenderableType:
    differing = differing_settings(sources)
    if not differing:
        return Text("No recorded parameter differs.")
    if len(sources) > MANY:
        table = _table("What differs", "model")
        table.add_column("parameters", overflow="fold")
        for number, source in enumerate(sources):
            listed = ", ".join(f"{name}={shorten(values[number])}" for name, values in differing.items())
            table.add_row(Text(source.name), Text(listed))
        return table
    table = _table("What differs", "parameter")
    for source in sources:
        table.add_column(Text(source.name), overflow="fold")
    for name, values in differing.items():
        table.add_row(Text(name), *(Text(shorten(value)) for value in values))
    return table
