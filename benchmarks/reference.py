"""Reference frames of a real file: a sequential decode from its first frame to its last, compared with the cache."""

import io

import numpy as np
from PIL import Image

from clipbert.sampling.candidates import fitted_size
from clipbert.sampling.clips import shown_at
from clipbert.video.sequential import Shown, shown_frames

# Gray levels, mean over a picture of 64 x 64: decoders round colors differently; a wrong frame's neighbor is nearer.
SAME_WITHIN, CLEARLY = 1.5, 0.4


def differing(path: str, times: np.ndarray, images: np.ndarray, size: int, quality: int) -> int:
    """How many cached pictures are not the frames that a sequential decode shows at their times. In a worker."""
    starts, grays = [], []
    for shown in shown_frames(path):
        starts.append(shown.start)
        grays.append(gray(stored(shown, size, quality)))
    ordered = np.sort(starts)
    wrong = 0
    for index, image in zip(shown_at(ordered - ordered[0], times).tolist(), images, strict=True):
        off = {
            step: np.abs(gray(image) - grays[index + step]).mean()
            for step in (-1, 0, 1)
            if 0 <= index + step < len(grays)
        }
        wrong += bool(off[0] > SAME_WITHIN or min(off.values()) < off[0] - CLEARLY)
    return wrong


def stored(shown: Shown, size: int, quality: int) -> np.ndarray:
    """A frame as the cache would hold it."""
    fitted = fitted_size(*shown.display_size(), size)
    picture = Image.fromarray(shown.upright()).resize(fitted, Image.Resampling.BILINEAR, reducing_gap=3)
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=quality, subsampling=0)
    return np.asarray(Image.open(buffer))


def gray(image: np.ndarray) -> np.ndarray:
    """A picture as 64 x 64 gray levels."""
    small = Image.fromarray(image).convert("L").resize((64, 64), Image.Resampling.BOX)
    return np.asarray(small).astype(np.int16)
