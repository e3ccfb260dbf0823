"""Check of decord's frames against a sequential decode of the same file."""

import contextlib

import numpy as np
from PIL import Image

from clipbert.sampling.clips import TIME_TOLERANCE_S
from clipbert.video.random_access import RandomAccess
from clipbert.video.remarks import Remarks
from clipbert.video.sequential import Damage, shown_frames

SIDE = 64
# Gray levels, mean over the picture: decoders round colors differently, a neighboring frame differs by more.
SAME_WITHIN, CLEARLY = 1.5, 0.3


class NotEqualError(Exception):
    """Difference between decord and a sequential decode of this file."""


def compare_decoders(path: str, pictures: int, remarks: Remarks | None = None) -> int:
    """Decode the whole file in sequence and compare the times of all frames, and up to `pictures` frames reached by
    random access, including the first and the last, with decord's. Return the number of compared frames.

    Args:
        remarks: records every frame.

    Raises:
        NotEqualError: decord returns another frame than is shown at a time, other times, or hides damage.
        NotExactError: decord cannot decode it, or complains.
        av.FFmpegError, ClipBertError: the sequential decode fails.
    """
    video = RandomAccess(path)
    indices = np.unique(np.linspace(0, len(video) - 1, pictures).round().astype(np.int64))
    theirs = [_grey(picture) for picture in video.read(indices)]
    around = {index + step for index in indices.tolist() for step in (-1, 0, 1)}
    ours: dict[int, np.ndarray] = {}
    starts: list[float] = []
    damage = Damage()
    last = None
    with contextlib.closing(shown_frames(path, damage, remarks)) as frames:
        for index, shown in enumerate(frames):
            starts.append(shown.start)
            last = shown
            if index in around:
                ours[index] = _grey(shown.upright())
    if damage:
        raise NotEqualError(f"decord hides damage ({damage.describe()})")
    if last is None or len(starts) != len(video):
        raise NotEqualError(f"decord counts {len(video)} frames, {len(starts)} can be decoded")
    off = np.abs(np.array(starts) - starts[0] - video.starts)
    if off.max() > TIME_TOLERANCE_S or abs(last.start + last.length - starts[0] - video.duration) > TIME_TOLERANCE_S:
        raise NotEqualError("decord gives other times")
    wrong = [index for index, picture in zip(indices.tolist(), theirs, strict=True) if _differs(picture, ours, index)]
    if wrong:
        first = video.starts[wrong[0]]
        raise NotEqualError(f"decord returns {len(wrong)} of {len(indices)} frames wrong, the first at {first:.2f} s")
    return len(indices)


def _differs(picture: np.ndarray, shown: dict[int, np.ndarray], index: int) -> bool:
    off = {step: _unlike(picture, shown[index + step]) for step in (-1, 0, 1) if index + step in shown}
    return off[0] > SAME_WITHIN or min(off.values()) < off[0] - CLEARLY


def _grey(picture: np.ndarray) -> np.ndarray:
    small = Image.fromarray(picture).convert("L").resize((SIDE, SIDE), Image.Resampling.BOX)
    return np.asarray(small).astype(np.int16)


def _unlike(first: np.ndarray, second: np.ndarray) -> float:
    return float(np.abs(first - second).mean())
