"""Pictures of a few predictions for the experiment tracker, with their texts."""

import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image, ImageDraw

from clipbert.evaluation.pictures import frame_strip
from clipbert.evaluation.report.strips import item_name, row_segment
from clipbert.files.atomic import atomic_write
from clipbert.frame_cache import FrameCache
from clipbert.sampling.clips import uniform_clips
from clipbert.sampling.segments import Segment
from clipbert.tasks import task_class
from clipbert.tasks.scoring import CachedFrames

SHOWN = 4  # of each group


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
    need shaping (Chinese, Hindi, Arabic, ...) are in the text file only.
    """
    from matplotlib import get_data_path
    from PIL import ImageFont

    paths = []
    font_file = str(Path(get_data_path(), "fonts", "ttf", "DejaVuSans.ttf"))
    font = ImageFont.truetype(font_file, 12)
    for name, rows in sample_rows(task, items).items():
        for number, row in enumerate(rows, start=1):
            frames = strip(cache, row["media"], segment=row_segment(row))
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
                text.write("\n".join([item_name(row), *lines]) + "\n")
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
