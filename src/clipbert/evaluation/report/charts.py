"""Charts as inline SVG: lines, columns, and intervals on a scale.

Colors are classes of the page's style sheet, so that a chart follows the color scheme of the reader. A chart has a
description for screen readers; lines differ by their dashes, not by color alone.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
from numpy.typing import ArrayLike, NDArray

WIDTH, HEIGHT = 420, 210  # of a chart, in the units of its view box
LEFT, RIGHT, TOP, BOTTOM = 42, 10, 8, 34  # margins around the plot
SCALE_WIDTH, SCALE_HEIGHT = 160, 16
MAX_POINTS = 300  # of a line
STYLES = ("model", "baseline", "chance")  # classes of the lines, in this order


@dataclass(frozen=True)
class Line:
    """A line of a chart: its name in the legend, and its points."""

    name: str
    x: ArrayLike
    y: ArrayLike


def line_chart(
    lines: Sequence[Line],
    xlabel: str,
    ylabel: str,
    *,
    top: float | None = None,
    log_x: bool = False,
    mark: tuple[float, float] | None = None,
) -> str:
    """Return lines over a common x axis; the y axis starts at 0.

    Args:
        top: the upper end of the y axis; None fits the data.
        log_x: whether the x axis is logarithmic.
        mark: a point (x, y) to mark with a circle.
    """
    series = [_finite(line) for line in lines]
    series = [(line, x, y) for line, x, y in series if len(x)]
    if not series:
        return ""
    low, high = min(float(x.min()) for _, x, _ in series), max(float(x.max()) for _, x, _ in series)
    top = top or _nice_top(max(float(y.max()) for _, _, y in series))
    x_of = _Axis(low, high, LEFT, WIDTH - RIGHT, log_x)
    y_of = _Axis(0.0, top, HEIGHT - BOTTOM, TOP)
    parts = [_y_axis(y_of, ylabel), _x_axis(x_of, xlabel)]
    for number, (_, x, y) in enumerate(series):
        chosen = np.unique(np.linspace(0, len(x) - 1, min(len(x), MAX_POINTS)).round().astype(int))
        points = " ".join(f"{x_of(a):.1f},{y_of(min(b, top)):.1f}" for a, b in zip(x[chosen], y[chosen], strict=True))
        parts.append(f'<polyline class="line {STYLES[min(number, 2)]}" points="{points}"/>')
    if mark is not None:
        parts.append(f'<circle class="mark" cx="{x_of(mark[0]):.1f}" cy="{y_of(mark[1]):.1f}" r="4"/>')
    told = "; ".join(f"{line.name} from {_number(float(y[0]))} to {_number(float(y[-1]))}" for line, _, y in series)
    return _svg(parts, f"{ylabel} by {xlabel}: {told}")


def column_chart(labels: Sequence[str], counts: Sequence[int], xlabel: str, ylabel: str) -> str:
    """Return a histogram as columns with their counts on top."""
    top = _nice_top(max(counts))
    y_of = _Axis(0.0, top, HEIGHT - BOTTOM, TOP + 10)
    step = (WIDTH - LEFT - RIGHT) / len(labels)
    parts = [_y_axis(y_of, ylabel)]
    for number, (label, count) in enumerate(zip(labels, counts, strict=True)):
        x, middle = LEFT + step * (number + 0.1), LEFT + step * (number + 0.5)
        y = y_of(count)
        parts.append(
            f'<rect class="column" x="{x:.1f}" y="{y:.1f}" width="{0.8 * step:.1f}" height="{y_of(0) - y:.1f}"/>'
            f'<text x="{middle:.1f}" y="{y - 3:.1f}" text-anchor="middle">{count}</text>'
            f'<text x="{middle:.1f}" y="{HEIGHT - BOTTOM + 13}" text-anchor="middle">{escape(label)}</text>'
        )
    parts.append(_axis_title(xlabel))
    told = ", ".join(f"{label}: {count}" for label, count in zip(labels, counts, strict=True))
    return _svg(parts, f"{ylabel} by {xlabel}: {told}")


def interval_scale(value: float, low: float | None, high: float | None, others: Sequence[float], top: float) -> str:
    """Return a value with its interval on a scale from 0 to `top`, and other values as ticks.

    The picture is decoration: the page has the numbers next to it.
    """
    x_of = _Axis(0.0, top, 4, SCALE_WIDTH - 4)
    middle = SCALE_HEIGHT / 2
    parts = [f'<line class="scale" x1="4" x2="{SCALE_WIDTH - 4}" y1="{middle}" y2="{middle}"/>']
    for other in others:
        parts.append(
            f'<line class="tick" x1="{x_of(other):.1f}" x2="{x_of(other):.1f}" y1="3" y2="{SCALE_HEIGHT - 3}"/>'
        )
    if low is not None and high is not None:
        parts.append(f'<line class="interval" x1="{x_of(low):.1f}" x2="{x_of(high):.1f}" y1="{middle}" y2="{middle}"/>')
    parts.append(f'<circle class="mark" cx="{x_of(value):.1f}" cy="{middle}" r="4"/>')
    box = f"0 0 {SCALE_WIDTH} {SCALE_HEIGHT}"
    return f'<svg class="interval-scale" viewBox="{box}" aria-hidden="true">{"".join(parts)}</svg>'


def sample(style: str) -> str:
    """Return the sample of a line for a legend."""
    line = f'<line class="line {style}" x1="1" x2="23" y1="4" y2="4"/>'
    return f'<svg class="sample" viewBox="0 0 24 8" aria-hidden="true">{line}</svg>'


@dataclass(frozen=True)
class _Axis:
    """Positions of values between two ends of the picture."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        low, high = (math.log(self.low), math.log(self.high)) if self.log else (self.low, self.high)
        value = math.log(max(value, self.low)) if self.log else value
        share = 0.5 if high == low else (value - low) / (high - low)
        return self.start + min(max(share, 0.0), 1.0) * (self.end - self.start)


def _finite(line: Line) -> tuple[Line, NDArray[np.float64], NDArray[np.float64]]:
    x, y = np.asarray(line.x, dtype=np.float64), np.asarray(line.y, dtype=np.float64)
    known = np.isfinite(x) & np.isfinite(y)
    return line, x[known], y[known]


def _nice_top(value: float) -> float:
    """Return a round number at or above a value, the end of an axis."""
    if value <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(value))
    return next(step * power for step in (1, 1.5, 2, 2.5, 3, 4, 5, 6, 8, 10) if step * power >= value - 1e-12)


def _ticks(axis: _Axis) -> list[float]:
    if axis.log:
        return [
            k for k in (1.0, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 1e4, 1e5) if axis.low <= k <= axis.high
        ]
    span = axis.high - axis.low
    if span <= 0:
        return [axis.low]
    step = next(s for s in (m * 10.0**e for e in range(-6, 9) for m in (1, 2, 2.5, 5)) if span / s <= 5)
    first = math.ceil(axis.low / step - 1e-9)
    return [number * step for number in range(first, math.floor(axis.high / step + 1e-9) + 1)]


def _y_axis(axis: _Axis, label: str) -> str:
    parts = []
    for tick in _ticks(axis):
        y = axis(tick)
        parts.append(f'<line class="grid-line" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{LEFT - 5}" y="{y + 4:.1f}" text-anchor="end">{_number(tick)}</text>')
    middle = (TOP + HEIGHT - BOTTOM) / 2
    parts.append(f'<text transform="translate(10 {middle}) rotate(-90)" text-anchor="middle">{escape(label)}</text>')
    return "".join(parts)


def _x_axis(axis: _Axis, label: str) -> str:
    parts = [
        f'<text x="{axis(tick):.1f}" y="{HEIGHT - BOTTOM + 13}" text-anchor="middle">{_number(tick)}</text>'
        for tick in _ticks(axis)
    ]
    return "".join(parts) + _axis_title(label)


def _axis_title(label: str) -> str:
    return f'<text x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 5}" text-anchor="middle">{escape(label)}</text>'


def _number(value: float) -> str:
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"


def _svg(parts: Sequence[str], description: str) -> str:
    told = escape(description, quote=True)
    return f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{told}">{"".join(parts)}</svg>'
