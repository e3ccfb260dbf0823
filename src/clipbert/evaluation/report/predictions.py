"""The table of predictions of a report: which test items it has, and what it shows of each.

The size of a page is bounded: at most `MAX_ROWS` items, texts of at most `MAX_TEXT` characters, and pictures of at most
`PICTURE_BYTES` together, those of the samples first. The other items have no picture.
"""

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from clipbert.evaluation.report.strips import (
    Strip,
    format_time,
    item_name,
    row_segment,
    thumbnail,
    video_strip,
)
from clipbert.frame_cache import FrameCache
from clipbert.sampling.segments import Segment, item_key
from clipbert.tasks import task_class

MAX_ROWS, MAX_TEXT, MAX_LINES = 500, 300, 8
PICTURE_BYTES = 3_000_000  # in base64
SAMPLES = 12  # of each kind
RANKED = 3  # items of a ranking
SEED = 0  # of the random sample
Rows = list[dict[str, Any]]


def sample_positions(items: pd.DataFrame) -> dict[str, list[int]]:
    """Return the positions of the best, median, worst and random items; of equal scores, the lower loss is better."""
    loss = items["loss"].fillna(np.inf) if "loss" in items else pd.Series(0.0, index=items.index)
    order = np.lexsort((np.arange(len(items)), loss.to_numpy(dtype=float), -items["score"].to_numpy(dtype=float)))
    count = min(SAMPLES, len(items))
    start = (len(items) - count) // 2
    drawn = np.random.default_rng(SEED).permutation(len(items))[:count]
    return {
        "best": order[:count].tolist(),
        "median": order[start : start + count].tolist(),
        "worst": order[::-1][:count].tolist(),
        "random": drawn.tolist(),
    }


def shown_positions(items: pd.DataFrame, samples: Mapping[str, list[int]]) -> list[int]:
    """Return the positions of the items in the table, in the order of the test set.

    Where not all fit, they are the samples, and items drawn at random with a fixed seed.
    """
    if len(items) <= MAX_ROWS:
        return list(range(len(items)))
    chosen = {position for some in samples.values() for position in some}
    for position in np.random.default_rng(SEED).permutation(len(items)).tolist():
        if len(chosen) >= MAX_ROWS:
            break
        chosen.add(position)
    return sorted(chosen)


def prediction_rows(task: str, items: pd.DataFrame, cache: FrameCache, frames_per_clip: int) -> dict[str, Any]:
    """Return what the script of the page shows: {rows, pictures, strips}, all of it plain JSON values.

    Args:
        items: the predictions; their attribute `evaluation` has the number of clips.
        frames_per_clip: of the model.
    """
    report = task_class(task).report
    success = report.is_success(items).to_numpy()
    samples = sample_positions(items)
    shown = shown_positions(items, samples)
    records = items.to_dict("records")
    rows = []
    for position in shown:
        record = {str(name): value for name, value in records[position].items()}
        kinds = [kind for kind, positions in samples.items() if position in positions]
        rows.append(_row(task, record, bool(success[position]), kinds))
    pictures = _Pictures(cache, int(items.attrs.get("evaluation", {}).get("clips", 1)), frames_per_clip)
    sampled = [number for number, row in enumerate(rows) if row["samples"]]
    others = [number for number, row in enumerate(rows) if not row["samples"]]
    for number in [*sampled, *others]:
        pictures.add(rows[number], {str(name): value for name, value in records[shown[number]].items()})
    return {"rows": rows, "strips": pictures.strips, "pictures": pictures.thumbnails}


def to_script(values: Any) -> str:
    """Return values as JSON that can stand in a script element: no text in it ends the element or begins a comment."""
    return json.dumps(values, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")


class _Pictures:
    """The pictures of a page, each once, until the space for them is used up."""

    def __init__(self, cache: FrameCache, clips: int, frames_per_clip: int) -> None:
        self._cache, self._clips, self._frames_per_clip = cache, clips, frames_per_clip
        self._left = PICTURE_BYTES
        self.strips: dict[str, dict[str, Any]] = {}
        self.thumbnails: dict[str, str] = {}

    def add(self, row: dict[str, Any], record: dict[str, Any]) -> None:
        """Add the strip of an item and the pictures of what it ranks first; a row without space for it gets none."""
        segment = row_segment(record)
        key = item_key(record["media"], segment)
        if key not in self.strips:
            if self._left <= 0:
                return
            strip = video_strip(self._cache, record["media"], segment, self._clips, self._frames_per_clip)
            if len(strip.picture) > self._left:
                self._left = 0
                return
            self.strips[key] = _shown_strip(strip, row["media"])
            self._left -= len(strip.picture)
        row["strip"] = key
        for entry, (media, other) in zip(row["ranking"], _ranked(record), strict=True):
            name = item_key(media, other)
            if name not in self.thumbnails:
                picture = thumbnail(self._cache, media, other) if self._left > 0 else ""
                if not 0 < len(picture) <= self._left:
                    continue
                self.thumbnails[name] = picture
                self._left -= len(picture)
            entry["picture"] = name


def _shown_strip(strip: Strip, name: str) -> dict[str, Any]:
    seen = ", ".join(format_time(time) for time, used in zip(strip.times, strip.used, strict=True) if used)
    more = f" and {strip.hidden} others" if strip.hidden else ""
    frames = "1 frame" if len(strip.times) == 1 else f"{len(strip.times)} frames"
    return {
        "picture": strip.picture,
        "times": [format_time(time) for time in strip.times],
        "used": strip.used,
        "alt": f"{frames} of {name}; the model saw {seen}{more}",
        "more": strip.hidden,
    }


def _row(task: str, record: dict[str, Any], success: bool, samples: list[str]) -> dict[str, Any]:
    report = task_class(task).report
    lines = [_cut(line) for line in report.lines(record) if line][:MAX_LINES]
    loss = record.get("loss")
    truth = record["media"], row_segment(record)
    kind = record.get("answer_type", "")
    return {
        "id": _cut(str(record["item_id"])),
        "media": _cut(item_name(record)),
        "lines": lines,
        "type": "" if kind == "all" else _cut(str(kind)),
        "right": success,
        "score": round(float(record["score"]), 4),
        "shown": report.score(100 * float(record["score"])),
        "loss": None if loss is None or not np.isfinite(loss) else round(float(loss), 3),
        "samples": samples,
        "ranking": [
            {
                "media": _cut(item_name({"media": media, **_columns(segment)})),
                "score": f"{score:.1f}",
                "truth": place == truth,
            }
            for place, score in zip(_ranked(record), list(record.get("top_scores", []))[:RANKED], strict=True)
            for media, segment in [place]
        ],
    }


def _columns(segment: Segment | None) -> dict[str, Any]:
    return {} if segment is None else segment.columns()


def _ranked(record: dict[str, Any]) -> list[tuple[str, Segment | None]]:
    """Return the first items of a ranking, with their segments."""
    media = list(record.get("top_media", []))[:RANKED]
    ends = [list(record.get(f"top_{column}", [None] * len(media)))[:RANKED] for column in ("start_s", "end_s")]
    return [(name, Segment.of(start, end)) for name, start, end in zip(media, *ends, strict=True)]


def _cut(text: str) -> str:
    return text if len(text) <= MAX_TEXT else f"{text[: MAX_TEXT - 3]}..."
