"""Decoding of the candidate frames of a media file: with decord where it is exact, else sequentially with PyAV.

Native decoders hang, crash and return wrong frames: `decode_file` runs in a process of a `KillablePool`, and ingest
determines the decoder of each file. decord and PyAV are imported when they are used.
"""

import contextlib
import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from clipbert.errors import ClipBertError, first_line
from clipbert.sampling.clips import TIME_TOLERANCE_S, shown_at
from clipbert.sampling.scenes import choose_times
from clipbert.video.media_types import IMAGE_FORMATS
from clipbert.video.random_access import NotExactError, RandomAccess
from clipbert.video.remarks import Remarks
from clipbert.video.sequential import Damage, Shown, packet_span, shown_frames
from clipbert.video.still_images import upright_rgb

# Returns the chosen times of a video, (N,) ascending seconds from its first frame, for its duration in seconds.
Choose = Callable[[float], np.ndarray]


@dataclass(frozen=True)
class Frames:
    """Candidate frames of one file: `times` (N,) float64 ascending seconds from its start; `images` (N, H, W, 3) uint8
    RGB, upright, square pixels: what is on screen at those times.

    `duration_s`: of the whole file. `decoder`: which one made them, decord, pyav or pil. `damage`: what of the file
    could not be decoded, its `first_s` counted from the first frame; None when nothing was noticed.
    """

    times: np.ndarray
    images: np.ndarray
    duration_s: float = 0.0
    decoder: str = ""
    damage: Damage | None = None


def decode_file(
    path: str, path_taken: str, fps: float, size: int, max_frames: int, sampling: str = "uniform"
) -> Frames:
    """Decode the candidate frames of one file in this process.

    Args:
        path_taken: the decoder, "decord", "pyav" or "pil", as `videos.parquet` says; where decord fails PyAV is tried.
        fps: candidates for each second, at (i + 1/2) / fps.
        size: pixels of the short side; a smaller video is not enlarged.
        max_frames: candidates at most, then spread evenly over the duration.
        sampling: "uniform", "scene" or "adaptive", as `choose_times` takes it.

    Raises:
        ClipBertError: the file is missing or cannot be decoded.
    """
    return decode_at(path, path_taken, lambda duration: choose_times(path, duration, fps, max_frames, sampling), size)


def decode_at(path: str, path_taken: str, choose: Choose, size: int) -> Frames:
    """Decode the frames on screen at the times that `choose` returns; otherwise like `decode_file`."""
    if not Path(path).is_file():
        raise ClipBertError(f"{path}: no such file")
    try:
        if path_taken == "pil":
            return decode_image(path, size)
        if path_taken == "decord":
            with contextlib.suppress(NotExactError):
                return decode_with_decord(RandomAccess(path), choose, size)
        return decode_with_pyav(path, choose, size)
    except (ClipBertError, MemoryError):
        raise
    except Exception as error:
        raise ClipBertError(f"{path}: cannot be decoded: {first_line(error)}") from error


def fitted_size(width: int, height: int, size: int) -> tuple[int, int]:
    """Return (width, height) scaled so that the short side is `size`, or unchanged if it is shorter."""
    short = min(width, height)
    scale = min(size, short) / short
    return max(1, round(width * scale)), max(1, round(height * scale))


def fit(image: np.ndarray, size: int) -> np.ndarray:
    """Return an RGB image (H, W, 3) resized like decoded frames: the short side to `size`, unless it is shorter."""
    return _resized(image, fitted_size(image.shape[1], image.shape[0], size))


def _resized(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    if image.shape[1::-1] == size:
        return image
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BILINEAR, reducing_gap=3))


def decode_image(path: str, size: int) -> Frames:
    """Decode an image as a video of one frame: the first picture of the file, upright, on white where it is
    transparent.

    Raises:
        OSError, ValueError: PIL cannot decode it.
    """
    with Image.open(path, formats=IMAGE_FORMATS) as file:
        pixels = upright_rgb(file)
    fitted = _resized(pixels, fitted_size(pixels.shape[1], pixels.shape[0], size))
    return Frames(np.zeros(1), fitted[None], 1.0, "pil")


def decode_with_decord(video: RandomAccess, choose: Choose, size: int) -> Frames:
    """Decode the chosen frames by random access; only for files on which ingest found decord exact.

    Raises:
        NotExactError: decord cannot decode the file, or gave a sign that what it returns may be wrong.
    """
    times = choose(video.duration)
    images = [
        _resized(picture, fitted_size(picture.shape[1], picture.shape[0], size))
        for picture in video.read(shown_at(video.starts, times))
    ]
    return Frames(times, np.stack(images), video.duration, "decord")


def decode_with_pyav(path: str, choose: Choose, size: int, remarks: Remarks | None = None) -> Frames:
    """Decode from the first frame to the last and keep the chosen ones.

    The chosen times depend on the duration, which is known at the end: it is estimated from the packets, and if the
    estimate was wrong, or times are out of order (AVI), the file is decoded again. Frames of another size than the
    first are resized to it.

    Args:
        remarks: records every frame.

    Raises:
        ClipBertError: not one frame can be decoded.
        av.FFmpegError: the file cannot be read.
    """
    guess = packet_span(path)
    expected = choose(guess) if guess else np.zeros(0)
    damage = Damage()
    kept: dict[int, np.ndarray] = {}
    starts: list[float] = []
    length = 0.0
    target: tuple[int, int] | None = None
    due = 0
    with contextlib.closing(shown_frames(path, damage, remarks)) as frames:
        following: Shown | None
        for index, (shown, following) in enumerate(itertools.pairwise(itertools.chain(frames, [None]))):
            assert shown is not None
            starts.append(shown.start)
            length = shown.length
            target = target or fitted_size(*shown.display_size(), size)
            end = math.inf if following is None else following.start - starts[0] - TIME_TOLERANCE_S
            while due < len(expected) and expected[due] < end:
                if index not in kept:
                    kept[index] = _resized(shown.upright(), target)
                due += 1
    if target is None:
        reason = damage.describe()
        raise ClipBertError(f"{path}: not one frame can be decoded{f' ({reason})' if reason else ''}")
    ordered = np.sort(starts)
    origin = float(ordered[0])
    ordered -= origin
    if not length and len(ordered) > 1:
        length = float(np.median(np.diff(ordered)))
    duration = float(ordered[-1] + length)
    times = choose(duration) if abs(duration - guess) > TIME_TOLERANCE_S else expected
    chosen = shown_at(ordered, times)
    missing = set(chosen.tolist()) - kept.keys()
    if missing:
        with contextlib.closing(shown_frames(path)) as frames:
            for index, shown in enumerate(itertools.islice(frames, max(missing) + 1)):
                if index in missing:
                    kept[index] = _resized(shown.upright(), target)
    if damage.first_s is not None:
        damage.first_s = max(0.0, damage.first_s - origin)
    images = np.stack([kept[index] for index in chosen.tolist()])
    return Frames(times, images, duration, "pyav", damage or None)
