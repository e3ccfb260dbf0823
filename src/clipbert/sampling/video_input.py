"""Frames of a video that a caller passes as a path or as the bytes of a file, decoded in a separate process."""

import io
import logging
from pathlib import Path

import numpy as np
from PIL import Image

from clipbert.config.schema import FramesParams
from clipbert.errors import ClipBertError
from clipbert.files.leftovers import scratch_folder
from clipbert.sampling.candidates import Frames, read_frames
from clipbert.video.media_types import IMAGE_FORMATS

logger = logging.getLogger(__name__)


def read_video_input(source: str | Path | bytes, params: FramesParams | None = None) -> np.ndarray:
    """Return the candidate frames (N, H, W, 3) uint8 RGB of a video or image file, chosen by `params` or the defaults.

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
        return _images(read_frames(Path(source), *wanted), str(source))
    if not source:
        raise ClipBertError("<0 bytes>: is empty: expected the content of a video or image file.")
    name = f"<{len(source)} bytes>"
    with scratch_folder() as folder:
        path = folder / f"given{'.png' if _is_image(source) else '.mp4'}"
        path.write_bytes(source)
        try:
            return _images(read_frames(path, *wanted), name)
        except ClipBertError as error:
            raise ClipBertError(str(error).replace(str(path), name)) from error


def _images(frames: Frames, name: str) -> np.ndarray:
    if frames.damage is not None:
        logger.warning("%s: damaged: %s; the frames that can be decoded are used.", name, frames.damage.describe())
    return frames.images


def _is_image(content: bytes) -> bool:
    """Return whether content is an image, by its header alone; the decoders also go by content, whatever the suffix."""
    try:
        with Image.open(io.BytesIO(content), formats=IMAGE_FORMATS):
            return True
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return False
