"""The HTML report of an evaluation: metrics compared with baselines, plots, and samples with frames and texts."""

import unicodedata
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import pandas as pd
from PIL import Image, ImageDraw

from clipbert.evaluation.pictures import data_url, frame_strip
from clipbert.evaluation.plots import task_figure, training_figure
from clipbert.evaluation.run import Evaluation
from clipbert.evaluation.verdict import verdict
from clipbert.files.atomic import atomic_write
from clipbert.frame_cache import FrameCache
from clipbert.sampling.clips import uniform_clips
from clipbert.sampling.segments import Segment
from clipbert.tasks import task_class
from clipbert.tasks.presentation import Headline
from clipbert.tasks.scoring import CachedFrames

SHOWN = 4


def write_report(
    evaluation: Evaluation,
    cache: FrameCache,
    history: pd.DataFrame,
    validation: pd.DataFrame,
    main_metric: str,
    lineage: dict[str, str],
    params: dict[str, Any],
    out: Path,
) -> None:
    """Write the report to `out`: one HTML file with all its pictures."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("clipbert.evaluation", "."), autoescape=True, undefined=jinja2.StrictUndefined
    )
    task = evaluation.task
    page = environment.get_template("report.html.j2").render(
        task=task,
        title=task_class(task).report.title,
        headlines=headlines(task, evaluation.metrics),
        verdict=verdict(task, evaluation.items),
        figures=[
            task_figure(evaluation),
            ("Training", training_figure(history, validation, main_metric)),
        ],
        groups=[
            (name, [_shown(task, row, cache) for row in rows])
            for name, rows in sample_rows(task, evaluation.items).items()
        ],
        metrics=_all_metrics(evaluation),
        lineage=lineage,
        params=sorted(params.items()),
    )
    with atomic_write(out, "w") as file:
        file.write(page)


def headlines(task: str, metrics: dict[str, float]) -> list[dict[str, Any]]:
    """Return the cards of the report, {name, value, interval, compared_with: [(words, value)]}, of existing metrics."""
    return [
        {
            "name": shown.card,
            "value": shown.format(task, metrics, shown.metric),
            "interval": _interval(shown, task, metrics),
            "compared_with": [
                (words, shown.format(task, metrics, metric))
                for words, metric in shown.compared_with
                if f"{task}/{metric}" in metrics
            ],
        }
        for shown in task_class(task).report.headlines
        if f"{task}/{shown.metric}" in metrics
    ]


def _interval(shown: Headline, task: str, metrics: dict[str, float]) -> str:
    """Return the 95 % interval of a headline, "LOW to HIGH"; empty where it has none."""
    ends = f"{shown.metric}_ci_low", f"{shown.metric}_ci_high"
    if f"{task}/{ends[0]}" not in metrics:
        return ""
    return " to ".join(shown.format(task, metrics, end) for end in ends)


def _all_metrics(evaluation: Evaluation) -> list[tuple[str, float, str]]:
    """Return the name, the value and the interval of all metrics, without the ends of the intervals as such."""
    found = []
    for name, value in evaluation.metrics.items():
        interval = evaluation.intervals.get(name)
        words = "" if interval is None else f"{interval.low:.2f} to {interval.high:.2f}"
        if not name.endswith(("_ci_low", "_ci_high")):
            found.append((name, value, words))
    return found


def sample_rows(task: str, items: pd.DataFrame) -> dict[str, list[dict[str, Any]]]:
    """Return a few right and a few wrong items by group name, evenly spaced over the test set, so not hand-picked."""
    report = task_class(task).report
    items = items.assign(is_success=report.is_success(items))
    groups = {}
    for name, rows in zip(report.groups, (items[items["is_success"]], items[~items["is_success"]]), strict=True):
        chosen = np.linspace(0, len(rows) - 1, min(SHOWN, len(rows))).round().astype(int)
        groups[name] = [{str(k): v for k, v in row.items()} for row in rows.iloc[chosen].to_dict("records")]
    return groups


def write_pictures(task: str, items: pd.DataFrame, cache: FrameCache, out: Path) -> list[Path]:
    """Write the samples of `sample_rows` for the experiment tracker: the frames as JPEG, the texts as a text file.

    Texts are also drawn below the frames if matplotlib's font has all their characters. Scripts that it lacks or that
    need shaping (Chinese, Hindi, Arabic, ...) are in the text file and in the report only.
    """
    from matplotlib import get_data_path
    from PIL import ImageFont

    paths = []
    font_file = str(Path(get_data_path(), "fonts", "ttf", "DejaVuSans.ttf"))
    font = ImageFont.truetype(font_file, 12)
    for name, rows in sample_rows(task, items).items():
        for number, row in enumerate(rows, start=1):
            frames = strip(cache, row["media"], segment=_segment(row))
            lines = [line for line in task_class(task).report.lines(row) if line]
            drawn = lines if _drawable("".join(lines), font_file) else []
            canvas = Image.new("RGB", (max(frames.width, 640), frames.height + 8 + 16 * len(drawn)), "white")
            canvas.paste(frames, (0, 0))
            draw = ImageDraw.Draw(canvas)
            for line_number, line in enumerate(drawn):
                draw.text((4, frames.height + 4 + 16 * line_number), line, fill="black", font=font)
            path = out / f"{name.lower().replace(' ', '_')}_{number}.jpg"
            with atomic_write(path) as file:
                canvas.save(file, "JPEG", quality=88)
            with atomic_write(path.with_suffix(".txt"), "w") as text:
                text.write("\n".join([_name(row), *lines]) + "\n")
            paths += [path, path.with_suffix(".txt")]
    return paths


def _drawable(text: str, font: str) -> bool:
    """Return whether a font has every character of a text, and none is written from right to left."""
    from matplotlib.ft2font import FT2Font

    known = FT2Font(font).get_charmap()
    return all(ord(char) in known and unicodedata.bidirectional(char) not in ("R", "AL", "AN") for char in text)


def strip(cache: FrameCache, media: str, frames: int = 4, segment: Segment | None = None) -> Image.Image:
    """Return `frames` evenly spread frames of a video or of its segment side by side; an image has one."""
    shown = CachedFrames(cache, media, segment)
    chosen = uniform_clips(len(shown), min(frames, len(shown)), 1).flatten()
    return frame_strip(list(shown.read(chosen)))


def _segment(row: dict[str, Any]) -> Segment | None:
    """Return the segment in the columns of a prediction."""
    return Segment.of(row.get("start_s"), row.get("end_s"))


def _name(row: dict[str, Any]) -> str:
    """Return the media of a prediction, with its segment if it has one."""
    segment = _segment(row)
    return str(row["media"]) if segment is None else f"{row['media']}, {segment.describe()}"


def _ranking(row: dict[str, Any], cache: FrameCache) -> list[dict[str, Any]]:
    """Return what the template shows of the items that a row ranks first."""
    top = {"media": row.get("top_media", []), "score": row.get("top_scores", [])}
    top |= {column: row[f"top_{column}"] for column in ("start_s", "end_s") if f"top_{column}" in row}
    items = [dict(zip(top, values, strict=True)) for values in zip(*top.values(), strict=True)]
    truth = row["media"], _segment(row)
    return [
        {
            "media": _name(item),
            "picture": data_url(strip(cache, item["media"], 2, _segment(item))),
            "truth": (item["media"], _segment(item)) == truth,
            "score": item["score"],
        }
        for item in items[:3]
    ]


def _shown(task: str, row: dict[str, Any], cache: FrameCache) -> dict[str, Any]:
    """Return what the template shows of a sample."""
    return {
        "lines": [line for line in task_class(task).report.lines(row) if line],
        "media": _name(row),
        "picture": data_url(strip(cache, row["media"], segment=_segment(row))),
        "right": row["is_success"],
        "ranking": _ranking(row, cache),
    }
