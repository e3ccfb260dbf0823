"""The HTML page of a comparison: one file with the items won and lost and their frames."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from clipbert.errors import ClipBertError
from clipbert.evaluation.comparison.effects import Effect, SeedEffect
from clipbert.evaluation.comparison.result import Comparison, Pair, format_p, signed
from clipbert.evaluation.comparison.source import COSTS, differing_settings, format_cost, shorten
from clipbert.evaluation.pictures import data_url, frame_strip
from clipbert.files.atomic import atomic_write
from clipbert.frame_cache import FrameCache
from clipbert.pages.page import render_page
from clipbert.sampling.clips import uniform_clips
from clipbert.sampling.segments import Segment, item_key
from clipbert.tasks import task_class
from clipbert.tasks.presentation import Headline, Report
from clipbert.tasks.scoring import CachedFrames

FRAMES = 4  # of a strip
ITEMS = 12  # won and lost of each pair that the page shows
PLOT_WIDTH = 100.0  # percent


@dataclass(frozen=True)
class Bar:
    """An effect as a bar: positions in percent of the plot's width."""

    low: float
    high: float
    point: float
    zero: float


def write_page(comparison: Comparison, frames_dir: Path, out: Path, items: int = ITEMS) -> None:
    """Write the page of a comparison.

    Args:
        frames_dir: the frame cache; items whose video it lacks are shown without frames.
        out: the HTML file.
        items: how many items won and lost of each pair are shown.
    """
    report = task_class(comparison.task).report
    pictures = _Pictures(frames_dir)
    labels = [side.name for side in comparison.sides]
    page = render_page(
        "clipbert.evaluation.comparison",
        "comparison.html.j2",
        ("comparison.css",),
        title=_title(labels),
        task=report.title,
        items=comparison.items,
        videos=comparison.videos,
        labels=labels,
        findings=[(pair.kind, pair.finding) for pair in comparison.pairs],
        sides=[_side(comparison, number) for number in range(len(comparison.sides))],
        pairs=[_pair(comparison, pair, report, pictures, items) for pair in comparison.pairs],
        sources=[(source.name, source.place) for source in comparison.sources],
        costs=[
            (words, [format_cost(key, source.cost.get(key)) for source in comparison.sources])
            for key, (words, _) in COSTS.items()
        ],
        differing=[
            (name, [shorten(value) for value in values])
            for name, values in differing_settings(comparison.sources).items()
        ],
        frames_missing=pictures.problem,
    )
    with atomic_write(out, "w") as file:
        file.write(page)


def metric_value(shown: Headline, value: float) -> str:
    """Return a metric as the report shows it."""
    return shown.format("", {f"/{shown.metric}": value}, shown.metric)


def _title(labels: list[str]) -> str:
    """Return the names of what is compared, at most four of them."""
    if len(labels) > 4:
        return f"{labels[0]} and {len(labels) - 1} others"
    return f"{', '.join(labels[:-1])} and {labels[-1]}"


class _Pictures:
    """Strips of frames from the frame cache, each read once."""

    def __init__(self, frames_dir: Path) -> None:
        self._known: dict[str, str | None] = {}
        self.problem = ""
        try:
            self._cache: FrameCache | None = FrameCache(frames_dir)
        except (ClipBertError, OSError) as error:
            self._cache, self.problem = None, str(error)

    def of(self, row: dict[str, Any]) -> str | None:
        """Return the `data:` URL of a prediction's frames; None where the cache does not have them."""
        segment = Segment.of(row.get("start_s"), row.get("end_s"))
        key = item_key(row["media"], segment)
        if key not in self._known:
            self._known[key] = self._strip(row["media"], segment)
        return self._known[key]

    def _strip(self, media: str, segment: Segment | None) -> str | None:
        if self._cache is None or media not in self._cache.media:
            return None
        frames = CachedFrames(self._cache, media, segment)
        chosen = uniform_clips(len(frames), min(FRAMES, len(frames)), 1).flatten()
        return data_url(frame_strip(list(frames.read(chosen))))


def _side(comparison: Comparison, number: int) -> dict[str, Any]:
    """Return what the table of metrics shows of a side."""
    side = comparison.sides[number]
    values = []
    for shown in comparison.headlines:
        pair = next(pair for pair in comparison.pairs if number in (pair.a, pair.b))
        effect = pair.effects[shown.metric]
        values.append((shown.card, metric_value(shown, effect.a if number == pair.a else effect.b)))
    return {"name": side.name, "values": values, "seeds": side.seeds if len(side.sources) > 1 else []}


def _pair(comparison: Comparison, pair: Pair, report: Report, pictures: _Pictures, items: int) -> dict[str, Any]:
    a, b = comparison.sides[pair.a].name, comparison.sides[pair.b].name
    tables = comparison.tables[pair.a][0], comparison.tables[pair.b][0]
    reach = _reach(comparison, pair)
    effects = [
        {
            "name": shown.card,
            "a": metric_value(shown, effect.a),
            "b": metric_value(shown, effect.b),
            "difference": signed(shown, effect.difference),
            "interval": "none" if np.isnan(effect.low) else f"{effect.low:+.1f} to {effect.high:+.1f}",
            "bar": _bar(effect, reach[shown.percent]),
            "seeds": _seeds(effect),
        }
        for shown in comparison.headlines
        for effect in (pair.effects[shown.metric],)
    ]
    chosen = [("won", "Better with", pair.won), ("lost", "Worse with", pair.lost)]
    return {
        "a": a,
        "b": b,
        "effects": effects,
        "test": _test(pair, len(comparison.pairs) > 1),
        "groups": [
            {
                "name": f"{words} {b}",
                "kind": kind,
                "count": len(ids),
                "rows": [_item(report, tables, item, pictures) for item in _chosen(report, tables, ids, items)],
            }
            for kind, words, ids in chosen
        ],
        "several": max(len(comparison.sides[i].sources) for i in (pair.a, pair.b)) > 1,
        "first": [comparison.sides[i].sources[0].name for i in (pair.a, pair.b)],
    }


def _test(pair: Pair, is_corrected: bool) -> str:
    test = pair.test
    units = "; videos are the units" if test.clustered and "t test" not in test.name else ""
    corrected = f"; after Holm's correction {format_p(pair.corrected)}" if is_corrected else ""
    return (
        f"{test.won} items won, {test.lost} lost, {test.tied} equal. {test.name}: {format_p(test.p_value)}"
        f"{units}{corrected}."
    )


def _seeds(effect: Effect) -> str:
    if not isinstance(effect, SeedEffect):
        return ""
    a, b = effect.seed_deviation
    return (
        f"standard error {effect.standard_error:.2f}: {effect.items_error:.2f} from the choice of test videos and "
        f"{effect.seeds_error:.2f} from the seeds; one training differs from another by a standard deviation of "
        f"{a:.2f} and {b:.2f}"
    )


def _reach(comparison: Comparison, pair: Pair) -> dict[bool, float]:
    """Return the end of the axes of a pair's bars, of percentages and of other metrics."""
    reach = {True: 1e-9, False: 1e-9}
    for shown in comparison.headlines:
        effect = pair.effects[shown.metric]
        ends = [abs(value) for value in (effect.low, effect.high, effect.difference) if not np.isnan(value)]
        reach[shown.percent] = max([reach[shown.percent], *(1.05 * end for end in ends)])
    return reach


def _bar(effect: Effect, reach: float) -> Bar | None:
    """Return the interval on an axis from -reach to reach; None without an interval."""
    if np.isnan(effect.low):
        return None

    def place(value: float) -> float:
        return round(PLOT_WIDTH * (value + reach) / (2 * reach), 2)

    return Bar(place(effect.low), place(effect.high), place(effect.difference), place(0))


def _chosen(report: Report, tables: tuple[pd.DataFrame, pd.DataFrame], ids: list[str], items: int) -> list[str]:
    """Return the items to show: those with the largest differences, or evenly spaced ones where all are equal."""
    if len(ids) <= items:
        return ids
    first = [table.loc[[ids[0], ids[-1]], report.paired_column].to_numpy(dtype=float) for table in tables]
    if np.ptp(np.abs(first[1] - first[0])) > 0:
        return ids[:items]
    return [ids[i] for i in np.linspace(0, len(ids) - 1, items).round().astype(int)]


def _item(report: Report, tables: tuple[pd.DataFrame, pd.DataFrame], item: str, pictures: _Pictures) -> dict[str, Any]:
    """Return what the page shows of an item: the lines that both models share, and those of each."""
    rows: list[dict[str, Any]] = [{str(key): value for key, value in table.loc[item].items()} for table in tables]
    lines = [[line for line in report.lines(row) if line] for row in rows]
    shared = [line for line in lines[0] if line in lines[1]]
    segment = Segment.of(rows[0].get("start_s"), rows[0].get("end_s"))
    return {
        "id": item,
        "media": rows[0]["media"] if segment is None else f"{rows[0]['media']}, {segment.describe()}",
        "picture": pictures.of(rows[0]),
        "shared": shared,
        "own": [[line for line in some if line not in shared] for some in lines],
    }
