"""Frames of a video that a caller passes as a path or as the bytes of a file, decoded in a separate process.

The frames of recent files are kept, up to CLIPBERT_CACHE_MB, by the digest of the file's content.
"""

import io
import logging
import math
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from clipbert.config.schema import FramesParams
from clipbert.errors import ClipBertError
from clipbert.files.byte_cache import ByteCache, FileDigests, bytes_digest, cache_limit
from clipbert.files.leftovers import scratch_folder
from clipbert.process_pool import WorkerError, time_limit
from clipbert.sampling.candidates import Frames, decode_file
from clipbert.sampling.decoder_pool import decoder_pool
from clipbert.sampling.segments import END_TOLERANCE_S, Segment
from clipbert.video.media_types import IMAGE_FORMATS, IMAGE_SUFFIXES

logger = logging.getLogger(__name__)

DEFAULT_WORKER_MB = FramesParams().max_worker_mb
REMEDY = "Check that it plays, or write it again: `ffmpeg -i FILE NEW.mp4`."
_digests = FileDigests()
_decoded: ByteCache | None = None


@dataclass(frozen=True)
class DecodedFile:
    """Candidate frames of a file.

    Attributes:
        digest: SHA-256 of the content that they are of; None if the file changed while it was decoded.
    """

    frames: Frames
    digest: str | None


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


def content_digest(source: str | Path | bytes) -> str | None:
    """Return the SHA-256 of the content of a file; None if it cannot be read, which decoding reports."""
    if isinstance(source, bytes):
        return bytes_digest(source)
    try:
        return _digests.state(Path(source)).digest
    except OSError:
        return None


def decode_input(source: str | Path | bytes, params: FramesParams | None = None) -> Frames:
    """Decode the candidate frames of a video or image file, chosen by `params` or the defaults.

    A file that is damaged in part gives the frames that can be decoded, with a warning. The arrays are read-only,
    since later calls get them too.

    Raises:
        ClipBertError: a URL, a missing or empty file, or one that cannot be decoded in time.
    """
    return decode_known(source, params).frames


def decode_known(source: str | Path | bytes, params: FramesParams | None = None) -> DecodedFile:
    """Decode like `decode_input`, and return the digest of the content too.

    Raises:
        ClipBertError: as in `decode_input`.
    """
    params = params or FramesParams()
    if not isinstance(source, bytes):
        path = existing_file(source)
        try:
            before = _digests.state(path)
        except OSError as error:
            raise ClipBertError(f"{source}: cannot be read ({error.strerror}). Check its permissions.") from error
        key = _cache_key(before.digest, params, path.suffix.lower() in IMAGE_SUFFIXES)
        kept = _kept(key)
        if kept is None:
            kept = _read_only(_read(path, params))
            if not _digests.unchanged(path, before):
                return DecodedFile(_warned(kept, str(source)), None)
            _keep(key, kept)
        return DecodedFile(_warned(kept, str(source)), before.digest)
    if not source:
        raise ClipBertError("<0 bytes>: is empty: expected the content of a video or image file.")
    name, digest, image = input_name(source), bytes_digest(source), _is_image(source)
    key = _cache_key(digest, params, image)
    kept = _kept(key)
    if kept is None:
        with scratch_folder() as folder:
            path = folder / f"given{'.png' if image else '.mp4'}"
            path.write_bytes(source)
            try:
                kept = _read_only(_read(path, params))
            except ClipBertError as error:
                raise ClipBertError(str(error).replace(str(path), name)) from error
        _keep(key, kept)
    return DecodedFile(_warned(kept, name), digest)


def existing_file(source: str | Path) -> Path:
    """Return the path of a file that a caller names.

    Raises:
        ClipBertError: a URL, a folder, or no such file.
    """
    if "://" in str(source):
        raise ClipBertError(f"{source}: is a URL: expected a local file. Download it and give its path or bytes.")
    path = Path(source)
    if not path.is_file():
        found = "is a folder" if path.is_dir() else "not found"
        raise ClipBertError(f"{str(source)!r}: {found}: expected a video or image file. Check the path.")
    return path


def _read(path: Path, params: FramesParams) -> Frames:
    wanted = (params.fps, params.size, params.max_frames, params.timeout_s, params.sampling, params.max_worker_mb)
    return read_frames(path, *wanted)


def read_frames(
    path: Path,
    fps: float,
    size: int,
    max_frames: int,
    timeout_s: float,
    sampling: str = "uniform",
    max_worker_mb: int = DEFAULT_WORKER_MB,
) -> Frames:
    """Decode one file in a decoder process, which is killed after `timeout_s` seconds (more for large files).

    Nothing is known about the file, so a video is decoded sequentially: slower than decord, and right for every file.

    Raises:
        ClipBertError: the file is missing, cannot be decoded, or takes too long.
    """
    decoder = "pil" if path.suffix.lower() in IMAGE_SUFFIXES else "pyav"
    whole = os.path.abspath(path)  # the process keeps the folder in which it was started
    try:
        limit = time_limit(timeout_s, size=path.stat().st_size)
        pool = decoder_pool(max_worker_mb)
        job = pool.submit(decode_file, whole, decoder, fps, size, max_frames, sampling, timeout_s=limit)
        frames: Frames = job.result()
    except (WorkerError, OSError) as error:
        raise ClipBertError(f"{path}: cannot be decoded: {error}. {REMEDY}") from error
    except ClipBertError as error:
        raise ClipBertError(f"{str(error).replace(whole, str(path)).rstrip('.')}. {REMEDY}") from error
    return frames


def _cache() -> ByteCache:
    global _decoded
    if _decoded is None:
        _decoded = ByteCache(cache_limit())
    return _decoded


def _cache_key(digest: str, params: FramesParams, image: bool) -> tuple[object, ...]:
    return digest, image, params.fps, params.size, params.max_frames, params.sampling


def _kept(key: tuple[object, ...]) -> Frames | None:
    found: Frames | None = _cache().get(key)
    return found


def _keep(key: tuple[object, ...], frames: Frames) -> None:
    _cache().put(key, frames, frames.images.nbytes + frames.times.nbytes)


def forget_decoded() -> None:
    """Drop the frames that are kept of recent files."""
    _cache().clear()


def _read_only(frames: Frames) -> Frames:
    frames.images.setflags(write=False)
    frames.times.setflags(write=False)
    return frames


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


def _forget_in_child() -> None:
    """Start without kept files after a fork, during which another thread may have held their locks."""
    global _digests, _decoded
    _digests, _decoded = FileDigests(), None


os.register_at_fork(after_in_child=_forget_in_child)
