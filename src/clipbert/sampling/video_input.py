"""Frames of a video that a caller passes as a path or as the bytes of a file, decoded in a separate process."""

import io
import logging
import math
from pathlib import Path

import numpy as np
from PIL import Image

from clipbert.config.schema import FramesParams
from clipbert.errors import ClipBertError
from clipbert.files.leftovers import scratch_folder
from clipbert.sampling.candidates import Frames, read_frames
from clipbert.sampling.segments import END_TOLERANCE_S, Segment
from clipbert.video.media_types import IMAGE_FORMATS

logger = logging.getLogger(__name__)


def input_name(source: str | Path | bytes) -> str:
    """Return the name of a file in messages."""
    return f"<{len(source)} bytes>" if isinstance(source, bytes) else str(source)


def frames_inside(frames: Frames, segment: Segment, name: str) -> np.ndarray:
    """Return the candidate frames inside a segment, (n, H, W, 3) with n of 1 or more.

    Args:
        name: of the file, for messages.

    Raises:
        ClipBertError: the segment lies outside the video or holds no candidate frame, or the file is an image.
    """
    if frames.decoder == "pil":
        raise ClipBertError(f"{name}: is an image, which has no segments: leave out start_s and end_s.")
    if segment.start_s >= frames.duration_s:
        raise ClipBertError(
            f"{name}: start_s is {segment.start_s:g}, but the video lasts {frames.duration_s:.1f} s: expected a "
            "segment inside it."
        )
    if math.inf > segment.end_s > frames.duration_s + END_TOLERANCE_S:
        raise ClipBertError(
            f"{name}: end_s is {segment.end_s:g}, but the video lasts {frames.duration_s:.1f} s: expected an end "
            "inside it. Leave out end_s for the rest of the video."
        )
    inside = segment.frames(frames.times)
    if not inside:
        apart = frames.duration_s / len(frames.times)
        raise ClipBertError(
            f"{name}: no candidate frame lies in the segment {segment.describe()}: they are {apart:.2g} s apart. Use a "
            "longer segment, or pass frames=FramesParams(fps=..., max_frames=...) with more candidate frames."
        )
    return frames.images[inside.start : inside.stop]


def decode_input(source: str | Path | bytes, params: FramesParams | None = None) -> Frames:
    """Decode the candidate frames of a video or image file, chosen by `params` or the defaults.

    A file that is damaged in part gives the frames that can be decoded, with a warning.

    Raises:
        ClipBertError: a URL, a missing or empty file, or one that cannot be decoded in time.
    """
    params = params or FramesParams()
    wanted = (params.fps, params.size, params.max_frames, params.timeout_s, params.sampling)
    if not isinstance(source, bytes):
        if "://" in str(source):
            raise ClipBertError(f"{source}: is a URL: expected a local file. Download it and give its path or bytes.")
        if not Path(source).is_file():
            found = "is a folder" if Path(source).is_dir() else "not found"
            raise ClipBertError(f"{str(source)!r}: {found}: expected a video or image file. Check the path.")
        return _warned(read_frames(Path(source), *wanted), str(source))
    if not source:
        raise ClipBertError("<0 bytes>: is empty: expected the content of a video or image file.")
    name = input_name(source)
    with scratch_folder() as folder:
        path = folder / f"given{'.png' if _is_image(source) else '.mp4'}"
        path.write_bytes(source)
        try:
            return _warned(read_frames(path, *wanted), name)
        except ClipBertError as error:
            raise ClipBertError(str(error).replace(str(path), name)) from error


def _warned(frames: Frames, name: str) -> Frames:
    if frames.damage is not None:
        logger.warning("%s: damaged: %s; the frames that can be decoded are used.", name, frames.damage.describe())
    return frames


def _is_image(content: bytes) -> bool:
    """Return whether content is an image, by its header alone; the decoders also go by content, whatever the suffix."""
    try:
        with Image.open(io.BytesIO(content), formats=IMAGE_FORMATS):
            return True
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return False
