"""Measurement of the segments of texts: whether they lie inside their videos and hold enough candidate frames."""

from dataclasses import dataclass

import pandas as pd

from clipbert.sampling.segments import Coverage, Segment, coverage


@dataclass(frozen=True)
class ClipSettings:
    """Parameters that decide how many candidate frames a segment holds, and how many a clip needs.

    Attributes:
        fps, max_frames: of section `frames`.
        frames_per_clip: of the model that will be trained.
    """

    fps: float
    max_frames: int
    frames_per_clip: int


def has_segments(texts: pd.DataFrame) -> bool:
    """Return whether a text of the manifest has a segment."""
    return "start_s" in texts and bool(texts[["start_s", "end_s"]].notna().any(axis=None))


def measure_segments(
    texts: pd.DataFrame, videos: pd.DataFrame, settings: ClipSettings
) -> tuple[pd.DataFrame, Coverage]:
    """Return one row per text with a segment, and the settings that are enough for all of them.

    Args:
        texts, videos: the tables of the manifest.

    Returns:
        Columns id, kind, media, split, start_s, end_s, duration_s (0 for an image, which has no segments),
        `beyond_s` (seconds by which the segment ends after its video), `frames` (candidate frames in it) and
        `frames_per_clip` (NaN without frames), sorted by the frames that a text needs, the largest number first.
    """
    rows = texts.loc[texts[["start_s", "end_s"]].notna().any(axis=1), ["id", "kind", "media", "split"]]
    rows = rows.assign(start_s=texts["start_s"].fillna(0.0), end_s=texts["end_s"])
    durations = videos["duration_s"].where(videos["kind"] == "video", 0.0)
    rows["duration_s"] = rows["media"].map(durations.set_axis(videos["media"])).fillna(0.0)
    segments = [Segment.of(start, end) or Segment() for start, end in zip(rows["start_s"], rows["end_s"], strict=True)]
    found = coverage(segments, rows["duration_s"].tolist(), settings.fps, settings.max_frames, settings.frames_per_clip)
    rows["beyond_s"] = (rows["end_s"] - rows["duration_s"]).clip(lower=0.0).fillna(0.0)
    inside = rows["start_s"] < rows["duration_s"]
    # those outside are reported by another check
    rows["frames"] = pd.Series(found.frames, index=rows.index).where(inside, settings.frames_per_clip)
    rows["frames_per_clip"] = pd.Series(float(settings.frames_per_clip), index=rows.index).where(rows["frames"] > 0)
    lengths = rows["end_s"].fillna(rows["duration_s"]).clip(upper=rows["duration_s"]) - rows["start_s"]
    needs = (rows["duration_s"] / lengths).where(inside & (lengths > 0), 0.0)
    return rows.loc[needs.sort_values(ascending=False, kind="stable").index].reset_index(drop=True), found
