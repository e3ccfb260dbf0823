"""Decoding of a video for the index: the frames of its clips only. It runs in processes that import no torch."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from clipbert.files.atomic import sha256_file
from clipbert.sampling.candidates import decode_file
from clipbert.sampling.clips import uniform_clips

ROUNDING = 1e-6


@dataclass(frozen=True)
class Part:
    """Clip of the index: part of a video, and the candidate frames inside it.

    Attributes:
        start_s, end_s: seconds from the start of the video.
        frames: positions of its candidate frames.
    """

    start_s: float
    end_s: float
    frames: range


@dataclass(frozen=True)
class DecodedVideo:
    """Clips of a file with the frames that the model sees of them.

    Attributes:
        sha256: of the content.
        duration_s: seconds.
        spans: the start and end of each clip in seconds.
        images: of each clip, (n, H, W, 3) uint8 RGB.
        damage: what of the file could not be decoded; None where nothing was noticed.
    """

    sha256: str
    duration_s: float
    spans: list[tuple[float, float]]
    images: list[np.ndarray]
    damage: str | None = None


def cut(duration_s: float, times: np.ndarray, clip_s: float) -> list[Part]:
    """Return equal parts of a video of at most `clip_s` seconds, each with one candidate frame or more.

    Args:
        duration_s: seconds of the video.
        times: (N,) seconds of its candidate frames.
    """
    count = max(1, math.ceil(duration_s / clip_s - ROUNDING))
    edges = np.linspace(0.0, duration_s, count + 1)
    places = np.searchsorted(times, edges)
    places[0], places[-1] = 0, len(times)
    parts: list[Part] = []
    start = 0
    for end in range(1, count + 1):
        # a part without a frame of its own becomes a piece of the next one, or of the last
        if places[end] > places[start]:
            parts.append(Part(float(edges[start]), float(edges[end]), range(int(places[start]), int(places[end]))))
            start = end
    if start < count:
        last = parts.pop()
        parts.append(Part(last.start_s, float(edges[-1]), last.frames))
    return parts


def decode_video(
    path: str, decoder: str, frames: dict[str, Any], clip_s: float, clips: int, frames_per_clip: int
) -> DecodedVideo:
    """Decode the clips of one file in this process.

    Args:
        decoder: decord, pyav or pil.
        frames: `fps`, `size`, `max_frames` and `sampling` of the candidate frames.
        clip_s: longest part of a video in seconds.
        clips, frames_per_clip: frames of a part that the model sees.

    Raises:
        ClipBertError: the file is missing or cannot be decoded.
        OSError: it cannot be read.
    """
    found = decode_file(path, decoder, frames["fps"], frames["size"], frames["max_frames"], frames["sampling"])
    image = found.decoder == "pil"
    parts = [Part(0.0, 0.0, range(1))] if image else cut(found.duration_s, found.times, clip_s)
    images = [found.images[shown_frames(part.frames, clips, frames_per_clip)] for part in parts]
    damage = None if found.damage is None else found.damage.describe()
    spans = [(part.start_s, part.end_s) for part in parts]
    return DecodedVideo(sha256_file(Path(path)), found.duration_s, spans, images, damage)


def shown_frames(frames: range, clips: int, frames_per_clip: int) -> np.ndarray:
    """Return the candidate frames of a part that the model sees, or all if they are no more.

    The uniform clips of the returned frames are those of all frames of the part.
    """
    if len(frames) <= clips * frames_per_clip:
        return np.asarray(frames)
    return np.asarray(frames)[uniform_clips(len(frames), clips, frames_per_clip).reshape(-1)]
