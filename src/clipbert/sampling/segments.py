"""Segments: the part of a video from `start_s` to `end_s` that a text is about.

A segment is not a file. Its clips are sampled from the candidate frames of its video that lie inside it.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from clipbert.sampling.clips import candidate_times

END_TOLERANCE_S = 0.5  # by which a segment may end after its video: annotated lengths are rounded
ROUNDING = 1e-9
ITEM_KEYS = ("video", "start_s", "end_s")


@dataclass(frozen=True, order=True)
class Segment:
    """Part of a video, in seconds from its start; an `end_s` of infinity is the end of the video."""

    start_s: float = 0.0
    end_s: float = math.inf

    @classmethod
    def of(cls, start_s: float | None, end_s: float | None) -> "Segment | None":
        """Return the segment of two values of which either may be missing (None or NaN); None for the whole video."""
        start = 0.0 if start_s is None or math.isnan(start_s) else float(start_s)
        end = math.inf if end_s is None or math.isnan(end_s) else float(end_s)
        return None if start <= 0 and end == math.inf else cls(start, end)

    @classmethod
    def given(cls, start_s: Any, end_s: Any) -> "Segment | None":
        """Return the segment that a caller gives; None for the whole video.

        Raises:
            ValueError: a value is not a time in seconds, or the segment does not end after it starts.
        """
        for name, value in (("start_s", start_s), ("end_s", end_s)):
            number = isinstance(value, int | float | np.number) and not isinstance(value, bool)
            if value is not None and not (number and 0 <= value < math.inf):
                raise ValueError(f"{name} is {value!r}: expected seconds from the start of the video, 0 or more.")
        segment = cls.of(start_s, end_s)
        if segment is not None and segment.end_s <= segment.start_s:
            raise ValueError(f"end_s is {end_s!r} and start_s is {start_s!r}: expected an end after the start.")
        return segment

    def frames(self, times: np.ndarray) -> range:
        """Return the positions of the candidate frames inside the segment: `start_s` <= time < `end_s`.

        Args:
            times: (N,) ascending seconds.
        """
        first, last = np.searchsorted(times, [self.start_s, self.end_s]).tolist()
        return range(first, last)

    def columns(self) -> dict[str, float | None]:
        """Return the segment as columns of a table; an `end_s` of None is the end of the video."""
        return {"start_s": self.start_s, "end_s": None if self.end_s == math.inf else self.end_s}

    def describe(self) -> str:
        """Return the segment for a reader, as "12.5 to 20 s"."""
        return f"{_seconds(self.start_s)} to {'the end' if self.end_s == math.inf else f'{_seconds(self.end_s)} s'}"


def item_key(media: str, segment: Segment | None) -> str:
    """Return the name of a video or of its segment, as "a.mp4#t=12.5,20" (W3C Media Fragments URI 1.0)."""
    if segment is None:
        return media
    return f"{media}#t={_seconds(segment.start_s)}{'' if segment.end_s == math.inf else f',{_seconds(segment.end_s)}'}"


def segment_item(given: Mapping[str, Any], name: str) -> tuple[Any, Segment | None]:
    """Return the video and the segment of {"video", "start_s", "end_s"}, of which only the video is required.

    Args:
        name: of the item, for messages.

    Raises:
        ValueError: an unknown key, no video, or see `Segment.given`.
    """
    if unknown := [key for key in given if key not in ITEM_KEYS]:
        raise ValueError(f"{name} has the key {unknown[0]!r}: expected {', '.join(ITEM_KEYS)}.")
    if "video" not in given:
        raise ValueError(f'{name} has no video: expected {{"video": path, "start_s": 3, "end_s": 8}}.')
    try:
        return given["video"], Segment.given(given.get("start_s"), given.get("end_s"))
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None


@dataclass(frozen=True)
class Coverage:
    """How many candidate frames segments hold.

    Attributes:
        frames: (segments,) int64, of each segment; 0 for one that lies outside its video.
        fps, max_frames: settings of section `frames` with which every segment would hold enough of them; those in use
            where they are enough.
        more_fps: whether `fps` is above the one in use.
    """

    frames: np.ndarray
    fps: float
    max_frames: int
    more_fps: bool


def coverage(
    segments: Sequence[Segment], durations_s: Sequence[float], fps: float, max_frames: int, enough: int
) -> Coverage:
    """Count the candidate frames of segments as `frames.sampling: uniform` places them.

    Args:
        durations_s: the duration of each segment's video.
        fps, max_frames: the settings in use.
        enough: how many candidate frames a segment needs. Segments outside their video do not count for it.
    """
    times_of = lru_cache(maxsize=2)(candidate_times)  # of the same video for all of its segments
    found = np.zeros(len(segments), np.int64)
    needed_fps, needed_frames = fps, max_frames
    for number, (segment, duration) in enumerate(zip(segments, durations_s, strict=True)):
        length = min(segment.end_s, duration) - segment.start_s
        if length <= 0:
            continue
        found[number] = len(segment.frames(times_of(duration, fps, max_frames)))
        if found[number] >= enough:
            continue
        # An interval of `enough` spacings holds as many frames, wherever it begins.
        needed_frames = max(needed_frames, math.ceil(duration * enough / length - ROUNDING))
        all_frames = times_of(duration, fps, math.ceil(duration * fps) + 1)
        if len(segment.frames(all_frames)) < enough:
            needed_fps = max(needed_fps, math.ceil(10 * enough / length - ROUNDING) / 10)
    return Coverage(found, needed_fps, needed_frames, needed_fps > fps)


def _seconds(value: float) -> str:
    return f"{value:.15g}"
