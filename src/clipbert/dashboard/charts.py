"""Charts of the dashboard: Vega-Lite specifications, drawn as SVG by Vega without a browser or a network."""

import re
from typing import Any

from clipbert.dashboard.data_history import DataSize
from clipbert.dashboard.experiments import Experiment
from clipbert.release.versions import RegisteredVersion

VEGA_LITE = "5.20"
# Colors with a contrast of at least 3 with a white and with a nearly black background.
BLUE, GRAY, GREEN = "#4f7fe0", "#7b8596", "#2f9461"
CONFIG = {
    "background": None,
    "font": "system-ui, 'DejaVu Sans', sans-serif",
    "view": {"stroke": None},
    "axis": {"gridOpacity": 0.25, "gridColor": GRAY, "domainColor": GRAY, "tickColor": GRAY, "labelFontSize": 12}
    | {"titleFontSize": 12, "titleFontWeight": "normal"},
}
MOST_AXES = 6  # parameters of the parallel coordinates


def versions_chart(task: str, metric: str, versions: list[RegisteredVersion]) -> str:
    """Return the headline metric of each version with its interval; the champion is green.

    Args:
        metric: the name after `TASK/`.
    """
    key = f"{task}/{metric}"
    rows = [
        {
            "version": f"v{one.version}",
            "value": one.metrics[key],
            "low": one.metrics.get(f"{key}_ci_low"),
            "high": one.metrics.get(f"{key}_ci_high"),
            "state": "champion" if one.is_champion else "other version",
        }
        for one in versions
        if key in one.metrics
    ]
    x = {"field": "version", "type": "ordinal", "sort": None, "title": None, "axis": {"labelAngle": 0}}
    color = {
        "field": "state",
        "scale": {"domain": ["champion", "other version"], "range": [GREEN, BLUE]},
        "legend": None,
    }
    spec = {
        "width": max(220, 44 * len(rows)),
        "height": 150,
        "data": {"values": rows},
        "encoding": {"x": x, "color": color},
        "layer": [
            {
                "mark": {"type": "rule", "strokeWidth": 2},
                "encoding": {
                    "y": {"field": "low", "type": "quantitative", "title": metric, "scale": {"zero": False}},
                    "y2": {"field": "high"},
                },
            },
            {
                "mark": {"type": "point", "filled": True, "size": 90, "opacity": 1},
                "encoding": {"y": {"field": "value", "type": "quantitative"}},
            },
        ],
    }
    return draw(spec, f"{task}: {metric} of each version with its 95 % interval")


def scatter_chart(experiments: list[Experiment]) -> str:
    """Return the test metric of each experiment against the time of its training."""
    rows = [
        {"name": one.name, "seconds": one.seconds, "value": one.test, "low": one.low, "high": one.high}
        for one in experiments
        if one.seconds is not None and one.test is not None
    ]
    metric = experiments[0].metric
    spec = {
        "width": 430,
        "height": 240,
        "data": {"values": rows},
        "encoding": {
            "x": {"field": "seconds", "type": "quantitative", "title": "training time, s", "scale": {"zero": False}},
            "detail": {"field": "name"},
        },
        "layer": [
            {
                "mark": {"type": "rule", "color": GRAY, "opacity": 0.6},
                "encoding": {
                    "y": {"field": "low", "type": "quantitative", "title": f"test {metric}"},
                    "y2": {"field": "high"},
                },
            },
            {
                "mark": {"type": "point", "filled": True, "size": 80, "opacity": 1, "color": BLUE},
                "encoding": {"y": {"field": "value", "type": "quantitative"}},
            },
        ],
    }
    return draw(spec, f"Test {metric} of each experiment against its training time")


def parallel_chart(experiments: list[Experiment]) -> str | None:
    """Return each experiment as a line over the parameters that differ, its cost and its metrics; None if none differ.

    Every axis runs from its smallest to its largest value; other values than numbers are spaced evenly.
    """
    columns: dict[str, list[Any]] = {}
    for name in _varied(experiments):
        columns[name] = [one.params.get(name) for one in experiments]
    if not columns:
        return None
    first = experiments[0]
    columns["training time, s"] = [one.seconds for one in experiments]
    columns[f"validation {first.validation_metric}"] = [one.validation for one in experiments]
    columns[f"test {first.metric}"] = [one.test for one in experiments]
    rows, ticks = [], []
    for axis, values in columns.items():
        positions, labels = _axis(values)
        ticks += [{"axis": axis, "y": y, "label": label} for label, y in labels.items()]
        rows += [
            {"axis": axis, "y": y, "name": one.name}
            for one, y in zip(experiments, positions, strict=True)
            if y is not None
        ]
    labels_on_top = {"orient": "top", "labelAngle": 0, "domain": False, "ticks": False, "labelLimit": 128, "grid": True}
    x = {"field": "axis", "type": "ordinal", "sort": None, "title": None, "axis": labels_on_top}
    y = {"field": "y", "type": "quantitative", "axis": None, "scale": {"domain": [-0.04, 1.04]}}
    spec = {
        "width": {"step": 128},
        "height": 260,
        "encoding": {"x": x, "y": y},
        "layer": [
            {
                "data": {"values": rows},
                "mark": {"type": "line", "color": BLUE, "strokeWidth": 2, "opacity": 0.75, "point": {"size": 28}},
                "encoding": {"detail": {"field": "name"}},
            },
            {
                "data": {"values": ticks},
                "mark": {"type": "text", "align": "left", "dx": 7, "dy": -5, "fontSize": 11},
                "encoding": {"text": {"field": "label"}},
            },
        ],
    }
    return draw(spec, "Experiments as lines over parameters, cost and metrics")


def growth_chart(sizes: list[DataSize]) -> str:
    """Return the number of files in data/ over time."""
    rows = [{"at": size.at, "files": size.files} for size in sizes]
    spec = {
        "width": 300,
        "height": 150,
        "data": {"values": rows},
        "mark": {"type": "line", "color": BLUE, "interpolate": "step-after", "point": {"size": 60, "filled": True}},
        "encoding": {
            "x": {"field": "at", "type": "temporal", "title": None},
            "y": {"field": "files", "type": "quantitative", "title": "files in data/", "scale": {"zero": True}},
        },
    }
    return draw(spec, "Files in data/ over time")


def draw(spec: dict[str, Any], title: str) -> str:
    """Return a specification as an SVG element that scales to its container, with a title for assistive technology."""
    import vl_convert

    svg = vl_convert.vegalite_to_svg({**spec, "config": CONFIG}, vl_version=VEGA_LITE)
    # The marks of an experiment carry its name, for the page's script.
    svg = re.sub(r' aria-label="[^"]*\bname: ([^";]*)[^"]*"', r' data-name="\1"', svg)
    # The roles of Vega's groups are those of its own navigation; the page describes the chart as one picture.
    svg = re.sub(r' (?:role|aria-[a-z]+|class|tabindex)="[^"]*"', "", svg)
    svg = re.sub(r'^<svg xmlns="[^"]*" xmlns:xlink="[^"]*" version="1.1"', "<svg", svg)
    svg = re.sub(r' width="[\d.]+" height="[\d.]+"', "", svg, count=1)
    return svg.replace("<svg", f'<svg role="img" aria-label="{_escape(title)}"', 1)


def _varied(experiments: list[Experiment]) -> list[str]:
    """Return the parameters in which experiments differ, the most frequently changed first."""
    counts: dict[str, int] = {}
    for one in experiments:
        for name in one.changes:
            counts[name] = counts.get(name, 0) + 1
    return sorted(counts, key=lambda name: (-counts[name], name))[:MOST_AXES]


def _axis(values: list[Any]) -> tuple[list[float | None], dict[str, float]]:
    """Return the position of each value on its axis, from 0 to 1, and the positions of the labels."""
    known = [value for value in values if value is not None]
    if all(isinstance(value, int | float) and not isinstance(value, bool) for value in known) and known:
        low, high = min(known), max(known)
        span = (high - low) or 1
        positions = [None if value is None else (value - low) / span for value in values]
        return positions, {f"{low:.4g}": 0.0, f"{high:.4g}": 1.0 if high > low else 0.0}
    names = sorted({str(value) for value in values})
    place = {name: index / max(1, len(names) - 1) for index, name in enumerate(names)}
    return [place[str(value)] for value in values], {name[:18]: y for name, y in place.items()}


def _escape(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace('"', "&quot;")
