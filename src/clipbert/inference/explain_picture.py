"""Picture of an explanation: the frames with their times, where the model looked, its clips' scores, and the words."""

import math
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from clipbert.files.atomic import atomic_write
from clipbert.inference.explain import Explanation

MIN_WIDTH, TILE, DPI = 8.0, 3.6, 120  # inches
COLUMNS = 4  # frames side by side
INK, MUTED, PAPER, ACCENT = "#1f2328", "#57606a", "#ffffff", "#d9480f"
HEAT = LinearSegmentedColormap.from_list(
    "relevance", [(1.0, 0.85, 0.3, 0.0), (0.95, 0.45, 0.05, 0.45), (0.8, 0.1, 0.05, 0.75)]
)
TITLE_CHARS = 66


def draw(explanation: Explanation, title: str, answer: str, score: str, out: Path, caption: bool = False) -> None:
    """Write a PNG.

    Args:
        title: what was asked.
        answer, score: what the model said, and how sure it is, in up to three lines.
        out: the file.
        caption: whether the words are those of a generated caption, with their probabilities.

    Raises:
        ClipBertError: the file cannot be written.
    """
    tiles = [
        (picture, float(explanation.times[clip, frame]), clip)
        for clip, pictures in enumerate(explanation.frames)
        for frame, picture in enumerate(pictures)
    ]
    columns = min(COLUMNS, len(tiles))
    blocks = math.ceil(len(tiles) / columns)
    height, width = tiles[0][0].shape[:2]
    tile_width = TILE if columns < COLUMNS else TILE * 0.8
    page = max(MIN_WIDTH, 0.6 + columns * (tile_width + 0.15) - 0.15)
    tile_height = tile_width * height / width
    heading = textwrap.wrap(title, TITLE_CHARS)[:3] or [""]
    words_height = 0.5 + 0.42 * len(_lines(explanation.words))
    bars_height = 0.55 + 0.26 * len(explanation.clip_scores)
    notes = score.splitlines()[:3]
    top = 0.75 + 0.3 * len(heading) + 0.2 * len(notes)
    total = top + blocks * (2 * tile_height + 0.62) + bars_height + words_height + 0.35
    figure = Figure(figsize=(page, total), dpi=DPI, facecolor=PAPER)
    FigureCanvasAgg(figure)

    def at(left: float, down: float, wide: float, high: float) -> Any:
        """Add axes at inches from the left and from the top."""
        axes = figure.add_axes((left / page, 1 - (down + high) / total, wide / page, high / total))
        axes.set_axis_off()
        return axes

    def write(text: str, down: float, size: float, **style: Any) -> None:
        figure.text(0.3 / page, 1 - down / total, text, fontsize=size, va="top", **{"color": INK} | style)

    for number, line in enumerate(heading):
        write(line, 0.25 + 0.3 * number, 14)
    write(f"{answer[:90]}", 0.3 + 0.3 * len(heading), 16, color=ACCENT, fontweight="bold")
    for number, line in enumerate(notes):
        write(line, 0.62 + 0.3 * len(heading) + 0.2 * number, 10.5, color=MUTED)
    # frames, and below each the same frame with the relevance of its cells
    for number, (picture, seconds, clip) in enumerate(tiles):
        row, column = divmod(number, columns)
        left, down = 0.3 + column * (tile_width + 0.15), top + row * (2 * tile_height + 0.62)
        labels: tuple[tuple[float, str, dict[str, Any]], ...] = (
            (left, f"{seconds:.1f} s", {"color": INK, "fontweight": "bold"}),
            (left + tile_width, f"clip {clip + 1}", {"color": MUTED, "ha": "right"}),
        )
        for place, text, style in labels:
            figure.text(place / page, 1 - (down + 0.02) / total, text, fontsize=10.5, va="top", **style)
        at(left, down + 0.25, tile_width, tile_height).imshow(picture, aspect="auto")
        shown = at(left, down + 0.3 + tile_height, tile_width, tile_height)
        shown.imshow(_gray(picture), aspect="auto", extent=(0, 1, 1, 0))
        heat = _heat(explanation.cells[clip], explanation.shown, picture.shape[:2])
        shown.imshow(heat, cmap=HEAT, vmin=0, vmax=1, aspect="auto", extent=(0, 1, 1, 0))
    down = top + blocks * (2 * tile_height + 0.62)
    _draw_bars(at(0.3, down + 0.3, 6.4, bars_height - 0.4), explanation.clip_scores)
    scale = at(page - 2.1, down + 0.02, 0.8, 0.13)
    scale.imshow(np.linspace(0, 1, 64)[None], cmap=HEAT, aspect="auto")
    figure.text((page - 2.2) / page, 1 - down / total, "less", fontsize=9.5, color=MUTED, va="top", ha="right")
    figure.text((page - 1.2) / page, 1 - down / total, "more relevant", fontsize=9.5, color=MUTED, va="top")
    write("Score of each clip alone", down, 11, color=MUTED)
    down += bars_height
    label = "Probability of each word" if caption else "Words that the answer rests on"
    write(label, down, 11, color=MUTED)
    _draw_words(figure, explanation.words, (page, total), down + 0.32)
    with atomic_write(out, "wb") as file:
        figure.savefig(file, format="png", facecolor=PAPER)


def _gray(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return a picture in light gray, on which colors of relevance are seen."""
    gray = np.asarray(Image.fromarray(picture).convert("L"), dtype=np.float32)
    return np.repeat((90 + gray * (165 / 255)).astype(np.uint8)[..., None], 3, axis=2)


def _heat(cells: NDArray[np.float64], shown: tuple[float, float], size: tuple[int, int]) -> NDArray[np.float32]:
    """Return the relevance (height, width) of the pixels of a frame from that of the cells of its padded square."""
    height, width = size
    full = (max(1, round(width / shown[1])), max(1, round(height / shown[0])))
    smooth = Image.fromarray(cells.astype(np.float32)).resize(full, Image.Resampling.BICUBIC)
    return np.clip(np.asarray(smooth)[:height, :width], 0, 1)


def _draw_bars(axes: Any, scores: NDArray[np.float64]) -> None:
    positions = np.arange(len(scores))
    axes.barh(positions, np.ones(len(scores)), color="#eef0f2", height=0.62)
    axes.barh(positions, scores, color=ACCENT, height=0.62)
    for position, score in enumerate(scores):
        axes.text(-0.015, position, f"clip {position + 1}", ha="right", va="center", fontsize=10, color=INK)
        axes.text(1.015, position, f"{100 * score:.1f} %", ha="left", va="center", fontsize=10, color=INK)
    axes.set_xlim(-0.12, 1.12)
    axes.set_ylim(len(scores) - 0.5, -0.5)


def _lines(words: list[tuple[str, float]]) -> list[list[tuple[str, float]]]:
    """Return the words in lines that fit the picture."""
    lines: list[list[tuple[str, float]]] = [[]]
    used = 0
    for word, value in words:
        if used + len(word) + 2 > TITLE_CHARS and lines[-1]:
            lines.append([])
            used = 0
        lines[-1].append((word, value))
        used += len(word) + 2
    return lines


def _draw_words(figure: Figure, words: list[tuple[str, float]], size: tuple[float, float], down: float) -> None:
    """Draw words on boxes that are the more orange the more they count."""
    width, total = size
    renderer: Any = figure.canvas.get_renderer()  # type: ignore[attr-defined]
    for number, line in enumerate(_lines(words)):
        left = 0.36
        for word, value in line:
            box = {"boxstyle": "round,pad=0.28", "facecolor": (*_rgb(ACCENT), 0.06 + 0.64 * value), "edgecolor": "none"}
            drawn = figure.text(
                left / width,
                1 - (down + 0.08 + 0.42 * number) / total,
                word,
                fontsize=12,
                color=INK,
                va="top",
                bbox=box,
            )
            left += drawn.get_window_extent(renderer).width / DPI + 0.2


def _rgb(color: str) -> tuple[float, float, float]:
    red, green, blue = (int(color[i : i + 2], 16) / 255 for i in (1, 3, 5))
    return red, green, blue
