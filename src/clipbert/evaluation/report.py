"""One self-contained HTML page a task: what the model reached, beside what costs nothing, and what it saw."""

import unicodedata
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import pandas as pd
from PIL import Image, ImageDraw

from clipbert.evaluation.pictures import data_url, frame_strip
from clipbert.evaluation.plots import DRAWINGS, training_figure
from clipbert.evaluation.run import Evaluation
from clipbert.files.atomic import atomic_write
from clipbert.frame_cache import FrameCache
from clipbert.sampling.clips import uniform_clips
from clipbert.tasks import task_class
from clipbert.tasks.headlines import HEADLINES, TITLES

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
    """Write the page to `out`; it needs no network and no other file."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("clipbert.evaluation", "."), autoescape=True, undefined=jinja2.StrictUndefined
    )
    task = evaluation.task
    drawing = DRAWINGS[task_class(task).plot]
    page = environment.get_template("report.html.j2").render(
        task=task,
        title=TITLES[task],
        headlines=headlines(task, evaluation.metrics),
        figures=[
            (drawing.title, drawing.figure(evaluation)),
            ("Training", training_figure(history, validation, main_metric)),
        ],
        groups=[
            (name, [_shown(task, row, cache) for row in rows])
            for name, rows in sample_rows(task, evaluation.items).items()
        ],
        metrics=sorted(evaluation.metrics.items()),
        lineage=lineage,
        params=sorted(params.items()),
    )
    with atomic_write(out, "w") as file:
        file.write(page)


def headlines(task: str, metrics: dict[str, float]) -> list[dict[str, Any]]:
    """The cards of the page: {name, value, beside: [(words, value)]}, of those metrics that there are."""
    return [
        {
            "name": shown.card,
            "value": shown.value(task, metrics, shown.metric),
            "beside": [
                (words, shown.value(task, metrics, metric))
                for words, metric in shown.beside
                if f"{task}/{metric}" in metrics
            ],
        }
        for shown in HEADLINES[task]
        if f"{task}/{shown.metric}" in metrics
    ]


def sample_rows(task: str, items: pd.DataFrame) -> dict[str, list[dict[str, Any]]]:
    """A few right and a few wrong items, evenly spread over the test set, so that nobody picked them."""
    about = task_class(task)
    items = items.assign(went_well=about.right(items))
    groups = {}
    for name, rows in zip(about.groups, (items[items["went_well"]], items[~items["went_well"]]), strict=True):
        chosen = np.linspace(0, len(rows) - 1, min(SHOWN, len(rows))).round().astype(int)
        groups[name] = [{str(k): v for k, v in row.items()} for row in rows.iloc[chosen].to_dict("records")]
    return groups


def write_pictures(task: str, items: pd.DataFrame, cache: FrameCache, out: Path) -> list[Path]:
    """Write the samples of `sample_rows` for the experiment tracker: the frames as JPEG, the words as a text file.

    The words are drawn below the frames as well where matplotlib's own font has all their characters; scripts that it
    lacks or that need shaping (Chinese, Hindi, Arabic, ...) are in the text file and in the report only.
    """
    from matplotlib import get_data_path
    from PIL import ImageFont

    paths = []
    font_file = str(Path(get_data_path(), "fonts", "ttf", "DejaVuSans.ttf"))
    font = ImageFont.truetype(font_file, 12)
    for name, rows in sample_rows(task, items).items():
        for number, row in enumerate(rows, start=1):
            frames = strip(cache, row["media"])
            lines = [line for line in task_class(task).words(row) if line]
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
                text.write("\n".join([row["media"], *lines]) + "\n")
            paths += [path, path.with_suffix(".txt")]
    return paths


def _drawable(text: str, font: str) -> bool:
    """Whether a font has every character of a text, and none is written from right to left."""
    from matplotlib.ft2font import FT2Font

    known = FT2Font(font).get_charmap()
    return all(ord(char) in known and unicodedata.bidirectional(char) not in ("R", "AL", "AN") for char in text)


def strip(cache: FrameCache, media: str, frames: int = 4) -> Image.Image:
    """Return `frames` evenly spread frames of a video side by side; an image has one."""
    frames = min(frames, cache.num_frames(media))
    chosen = uniform_clips(cache.num_frames(media), frames, 1).flatten()
    return frame_strip(list(cache.read(media, chosen)))


def _shown(task: str, row: dict[str, Any], cache: FrameCache) -> dict[str, Any]:
    first = [
        {"media": media, "picture": data_url(strip(cache, media, 2)), "truth": media == row["media"], "score": score}
        for media, score in zip(row.get("top_media", [])[:3], row.get("top_scores", [])[:3], strict=True)
    ]
    return {
        "words": [line for line in task_class(task).words(row) if line],
        "media": row["media"],
        "picture": data_url(strip(cache, row["media"])),
        "right": row["went_well"],
        "first": first,
    }
