"""Video of a request: an upload or a file below a root, checked against the limits before it is decoded."""

import contextlib
import os
import re
import shutil
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

from clipbert.errors import ClipBertError, first_line
from clipbert.files.byte_cache import ByteCache
from clipbert.files.leftovers import scratch_folder
from clipbert.process_pool import BYTES_AT_BASE, WorkerError
from clipbert.sampling.decoder_pool import decoder_pool
from clipbert.sampling.video_input import DEFAULT_WORKER_MB, content_digest
from clipbert.server.errors import ApiError
from clipbert.server.settings import MB, Limits
from clipbert.video.media_types import IMAGE_FORMATS

COPY_BYTES = 2**20
UPLOAD = "upload.mp4"
NAME_CHARS = 100
ODD_IN_NAMES = re.compile(r"[^\w.() +,-]")
KEPT_SHAPES = 10_000
# Demuxers of single files. Playlists (hls, concat, dash, sdp) name other files and addresses, which FFmpeg would open.
FORMATS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,mpegvideo,flv,asf,gif,apng,ogg,h264,hevc,av1,obu,ivf,m4v,"
    "mjpeg,rm,dv,mxf,nut,wtv,nsv,png_pipe,jpeg_pipe,webp_pipe,bmp_pipe,tiff_pipe,yuv4mpegpipe,swf,roq,vivo"
)


@dataclass(frozen=True)
class Shape:
    """Size of a media file, as its container says.

    Attributes:
        image: whether it is a still picture.
        duration_s: 0 for a picture, and where the container does not say.
    """

    image: bool
    width: int
    height: int
    duration_s: float


@dataclass(frozen=True)
class VideoFile:
    """The file of a request.

    Attributes:
        path: where it is.
        name: for messages and answers.
        size: in bytes.
    """

    path: Path
    name: str
    size: int

    def said(self, error: Exception) -> str:
        """Return the message of an error with the client's name of the file instead of the server's."""
        text = str(error)
        for path in {str(self.path), str(self.path.absolute())}:
            text = text.replace(path, self.name)
        return text


def find_file(roots: Sequence[Path], given: str, limits: Limits) -> VideoFile:
    """Return the file below one of the roots that a request names.

    No link is followed, and messages do not reveal what exists outside the roots.

    Args:
        roots: absolute folders.
        given: relative to a root, or absolute.

    Raises:
        ApiError: 404 for a missing file, 413 for one that is too large, 422 for a URL.
    """
    if "://" in given or given[:5].lower() == "data:":
        raise ApiError(422, "url", f"path is {given!r:.100}: URLs are not fetched. Upload the file as `video`.")
    problem = "is not a file below the server's folders"
    parts = Path(given).parts
    if "\0" in given or ".." in parts:
        raise ApiError(404, "not_found", f"path {given!r:.100} {problem}.")
    for root in roots:
        candidate = root / given
        if not candidate.is_relative_to(root):
            continue
        place = root
        try:
            for part in candidate.relative_to(root).parts:
                place = place / part
                found = os.lstat(place)
                if stat.S_ISLNK(found.st_mode):
                    problem = "is or passes a symbolic link, which is not followed"
                    break
            else:
                found = os.lstat(candidate)
                if stat.S_ISREG(found.st_mode):
                    _check_size(found.st_size, given, limits)
                    return VideoFile(candidate, given, found.st_size)
        except (OSError, ValueError):
            continue
    if not roots:
        problem += " (it has none: start it with --root FOLDER, or upload the video as the field `video`)"
    raise ApiError(404, "not_found", f"path {given!r:.100} {problem}.")


@contextlib.contextmanager
def stored_upload(source: BinaryIO, filename: str | None, limits: Limits) -> Iterator[VideoFile]:
    """Copy an upload into a private folder, and remove it after the block.

    Raises:
        ApiError: 413 where it is too large, 422 where it is empty.
    """
    name = ODD_IN_NAMES.sub("_", Path(filename or "").name)[:NAME_CHARS] or "the upload"
    with scratch_folder() as folder:
        path = folder / UPLOAD
        with path.open("wb") as target:
            shutil.copyfileobj(source, target, COPY_BYTES)
        size = path.stat().st_size
        if size == 0:
            raise ApiError(422, "empty", f"{name}: is empty: expected the content of a video or picture.")
        _check_size(size, name, limits)
        yield VideoFile(path, name, size)


def _check_size(size: int, name: str, limits: Limits) -> None:
    if size > limits.upload_mb * MB:
        raise ApiError(
            413,
            "too_large",
            f"{name}: has {size / MB:.1f} MB: expected at most {limits.upload_mb:g} MB (--max-upload-mb).",
        )


class ShapeChecker:
    """Checks of length and pixels, which are kept by the digest of the file."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._known = ByteCache(KEPT_SHAPES)

    def check(self, file: VideoFile) -> Shape:
        """Return the shape of a file; its container is read in a decoder process.

        Raises:
            ApiError: 422 for a file that is too long, has too many pixels, or is not a video or picture.
        """
        digest = content_digest(file.path)
        shape: Shape | None = None if digest is None else self._known.get(digest)
        if shape is None:
            try:
                pool = decoder_pool(DEFAULT_WORKER_MB)
                shape = pool.submit(read_shape, str(file.path), timeout_s=self._limits.request_s).result()
            except (WorkerError, ClipBertError, MemoryError) as error:
                raise ApiError(
                    422, "not_a_video", f"{file.name}: is not a video or picture that can be read: {file.said(error)}."
                ) from error
            assert shape is not None
            if digest is not None:
                self._known.put(digest, shape, 1)
        self._check(file.name, shape)
        return shape

    def _check(self, name: str, shape: Shape) -> None:
        limits = self._limits
        if shape.duration_s > limits.duration_s:
            raise ApiError(
                422,
                "too_long",
                f"{name}: lasts {shape.duration_s:.0f} s: expected at most {limits.duration_s:g} s (--max-duration). "
                "Cut it.",
            )
        if shape.width * shape.height > limits.megapixels * MB:
            raise ApiError(
                422,
                "too_many_pixels",
                f"{name}: has {shape.width}x{shape.height} pixels: expected at most {limits.megapixels:g} megapixels "
                "(--max-megapixels). Scale it down.",
            )


def decode_limit(limits: Limits, size: int) -> float:
    """Return the `timeout_s` of FramesParams with which no file may take longer than a request.

    Decoding gets more time than `timeout_s` for files above 10 MB.
    """
    return limits.request_s / max(1.0, size / BYTES_AT_BASE)


def read_shape(path: str) -> Shape:
    """Return the shape of a media file; runs in a decoder process.

    Raises:
        ClipBertError: the file is neither a picture nor a video.
    """
    try:
        return _picture_shape(path) or _video_shape(path)
    except (ClipBertError, MemoryError):
        raise
    except Exception as error:  # damaged files cause many types, as PIL's struct.error and PyAV's
        raise ClipBertError(first_line(error)) from error


def _video_shape(path: str) -> Shape:
    import av

    with av.open(path, options={"format_whitelist": FORMATS}) as container:
        if not container.streams.video:
            raise ClipBertError("it has no video stream")
        stream = container.streams.video[0]
        width, height = stream.codec_context.width, stream.codec_context.height
        length = float(container.duration or 0) / av.time_base
        if stream.duration and stream.time_base:
            length = max(length, float(stream.duration * stream.time_base))
        return Shape(False, width or 0, height or 0, length)


def _picture_shape(path: str) -> Shape | None:
    from PIL import Image

    try:
        with Image.open(path, formats=[name for name in IMAGE_FORMATS if name != "GIF"]) as picture:
            return Shape(True, picture.width, picture.height, 0.0)
    except Image.DecompressionBombError as error:
        raise ClipBertError(f"it has too many pixels ({error})") from error
    except (OSError, ValueError, SyntaxError):
        return None


def named_by_content(file: VideoFile, shape: Shape) -> VideoFile:
    """Return an upload with a suffix that says whether it is a picture, by which decoders are chosen."""
    if not shape.image or file.path.name != UPLOAD:
        return file
    return replace(file, path=file.path.rename(file.path.with_suffix(".png")))


def as_input(file: VideoFile, start_s: float | None, end_s: float | None) -> Any:
    """Return a file, or a segment of it, as a pipeline takes it."""
    if start_s is None and end_s is None:
        return file.path
    return {"video": file.path, "start_s": start_s, "end_s": end_s}
