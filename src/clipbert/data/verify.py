"""Whether decord returns the frames of a file that a sequential decode shows: proved on the file itself."""

import contextlib

import numpy as np
from PIL import Image

from clipbert.frames.random_access import RandomAccess
from clipbert.frames.sampling import TIME_TOLERANCE_S
from clipbert.frames.sequential import shown_frames

COMPARED = 24
SIDE = 64
# Grey levels, mean over the picture: decoders round colours differently, a neighbouring frame differs by more.
SAME_WITHIN, CLEARLY = 1.5, 0.3


def wrong_times(path: str) -> tuple[list[float], int]:
    """The times, seconds from the first frame, at which decord returns another frame than is shown then; and how many
    frames were compared: up to 24 spread over the file, first and last among them.

    Raises:
        NotExactError: decord cannot decode it, or complains.
        av.FFmpegError, ClipBertError: the sequential decode fails.
    """
    video = RandomAccess(path)
    indices = np.unique(np.linspace(0, len(video) - 1, COMPARED).round().astype(np.int64))
    theirs = [_grey(picture) for picture in video.read(indices)]
    around = {index + step for index in indices.tolist() for step in (-1, 0, 1)}
    ours: dict[int, np.ndarray] = {}
    starts: list[float] = []
    with contextlib.closing(shown_frames(path)) as frames:
        for index, shown in enumerate(frames):
            starts.append(shown.start)
            if index in around:
                ours[index] = _grey(shown.upright())
    wrong = []
    for index, picture in zip(indices.tolist(), theirs, strict=True):
        when = float(video.starts[index])
        if index >= len(starts) or abs(starts[index] - starts[0] - when) > TIME_TOLERANCE_S:
            wrong.append(when)
            continue
        off = {step: _unlike(picture, ours[index + step]) for step in (-1, 0, 1) if index + step in ours}
        if off[0] > SAME_WITHIN or min(off.values()) < off[0] - CLEARLY:
            wrong.append(when)
    return wrong, len(indices)


def _grey(picture: np.ndarray) -> np.ndarray:
    small = Image.fromarray(picture).convert("L").resize((SIDE, SIDE), Image.Resampling.BOX)
    return np.asarray(small).astype(np.int16)


def _unlike(first: np.ndarray, second: np.ndarray) -> float:
    return float(np.abs(first - second).mean())
