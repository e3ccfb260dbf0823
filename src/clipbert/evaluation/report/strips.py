"""Frames of test videos as small pictures, with the frames that the model saw marked by their times."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from clipbert.frame_cache import FrameCache
from clipbert.pages.pictures import side_by_side
from clipbert.sampling.clips import uniform_clips
from clipbert.sampling.segments import Segment
from clipbert.tasks.scoring import CachedFrames

FRAMES = 6  # of a strip
HEIGHT, THUMBNAIL_HEIGHT = 72, 48  # pixels


@dataclass(frozen=True)
class Strip:
    """Frames side by side.

    Attributes:
        picture: a `data:` URL.
        times: of the frames, in seconds.
        used: which of them the model saw.
        hidden: how many frames that the model saw are not among them.
    """

    picture: str
    times: list[float]
    used: list[bool]
    hidden: int


def video_strip(cache: FrameCache, media: str, segment: Segment | None, clips: int, frames_per_clip: int) -> Strip:
    """Return at most `FRAMES` candidate frames of a video or segment, first of all those that the model saw.

    Args:
        clips, frames_per_clip: of the evaluation.
    """
    frames = CachedFrames(cache, media, segment)
    seen = np.unique(uniform_clips(len(frames), clips, frames_per_clip))
    shown = seen[np.unique(np.linspace(0, len(seen) - 1, min(len(seen), FRAMES)).round().astype(int))]
    for context in uniform_clips(len(frames), min(FRAMES, len(frames)), 1).flatten():
        if len(shown) < FRAMES and context not in shown:
            shown = np.append(shown, context)
    shown = np.sort(shown)
    times = cache[media].times
    if segment is not None:
        times = times[np.asarray(segment.frames(times))]
    used = np.isin(shown, seen)
    picture = side_by_side(list(frames.read(shown)), HEIGHT)
    return Strip(picture, [float(times[i]) for i in shown], used.tolist(), len(seen) - int(used.sum()))


def thumbnail(cache: FrameCache, media: str, segment: Segment | None) -> str:
    """Return the middle candidate frame of a video or segment as a `data:` URL."""
    frames = CachedFrames(cache, media, segment)
    return side_by_side(list(frames.read(np.array([len(frames) // 2]))), THUMBNAIL_HEIGHT)


def row_segment(row: dict[str, Any]) -> Segment | None:
    """Return the segment in the columns of a prediction."""
    return Segment.of(row.get("start_s"), row.get("end_s"))


def item_name(row: dict[str, Any]) -> str:
    """Return the media of a prediction, with its segment if it has one."""
    segment = row_segment(row)
    return str(row["media"]) if segment is None else f"{row['media']}, {segment.describe()}"


def format_time(seconds: float) -> str:
    """Return a time for a label, as "1.25 s", "12.3 s" or "2:05"."""
    if seconds < 60:
        return f"{seconds:.{2 if seconds < 10 else 1}f} s"
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"
