"""From a media file to its candidate frames: decord where it is exact, a sequential PyAV decode elsewhere.

Native decoders hang, crash and return wrong frames: `decode_file` runs in a process of a `KillablePool`, and which
decoder serves a file is settled at ingest. decord and PyAV are imported only when used.
"""

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from clipbert.data.media_types import IMAGE_SUFFIXES
from clipbert.errors import ClipBertError
from clipbert.frames.sampling import TIME_TOLERANCE_S, candidate_times, shown_at
from clipbert.frames.scenes import choose_times, shown_duration
from clipbert.workers import KillablePool, WorkerError

BATCH_BYTES = 64 * 2**20
SQUARE_WITHIN = 0.01


@dataclass(frozen=True)
class Frames:
    """Candidate frames of one file: `times` (N,) float64 seconds from its start, ascending; `images` (N, H, W, 3) uint8
    RGB, upright, square pixels: what is on screen at those times."""

    times: np.ndarray
    images: np.ndarray


def read_frames(path: Path, fps: float, size: int, max_frames: int, timeout_s: float) -> Frames:
    """Decode one file in a process of its own, killed after `timeout_s` seconds.

    Nothing is known about the file, so a video is decoded sequentially: slower than decord, and right for every file.

    Raises:
        ClipBertError: the file is missing, cannot be decoded, or takes too long.
    """
    decoder = "pil" if path.suffix.lower() in IMAGE_SUFFIXES else "pyav"
    with KillablePool(1, timeout_s) as pool:
        try:
            return pool.submit(decode_file, str(path), decoder, fps, size, max_frames).result()
        except WorkerError as error:
            raise ClipBertError(f"{path}: cannot be decoded: {error}") from error


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
    if not Path(path).is_file():
        raise ClipBertError(f"{path}: no such file")
    try:
        if path_taken == "pil":
            return _decode_image(path, size)
        if path_taken == "decord":
            try:
                return _decode_decord(path, fps, size, max_frames, sampling)
            except Exception:
                pass
        return _decode_pyav(path, fps, size, max_frames, sampling)
    except ClipBertError:
        raise
    except Exception as error:
        reason = str(error).strip().splitlines()
        raise ClipBertError(f"{path}: cannot be decoded: {reason[0] if reason else type(error).__name__}") from error


def fitted_size(width: int, height: int, size: int) -> tuple[int, int]:
    """(width, height) scaled so that the short side is `size`, or unchanged when it is shorter."""
    short = min(width, height)
    scale = min(size, short) / short
    return max(1, round(width * scale)), max(1, round(height * scale))


def _resized(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    if image.shape[1::-1] == size:
        return image
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BILINEAR, reducing_gap=3))


def _decode_image(path: str, size: int) -> Frames:
    with Image.open(path) as file:
        image = ImageOps.exif_transpose(file)
        if image.mode.startswith("I;16"):
            image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
        if image.has_transparency_data:
            image = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
        pixels = np.asarray(image.convert("RGB"))
    fitted = _resized(pixels, fitted_size(pixels.shape[1], pixels.shape[0], size))
    return Frames(np.zeros(1), fitted[None])


def _pixel_aspect(stream: Any) -> float:
    """Width over height of one stored pixel; a ratio that only mends the rounding of the sides counts as square."""
    ratio = float(stream.sample_aspect_ratio or 1)
    return 1.0 if abs(ratio - 1) <= SQUARE_WITHIN else ratio


def _decode_decord(path: str, fps: float, size: int, max_frames: int, sampling: str) -> Frames:
    import av
    import decord

    with av.open(path, metadata_errors="ignore") as container:
        stream = container.streams.best("video")
        if _pixel_aspect(stream) != 1:
            # decord turns pictures upright by itself, and does not say which side was the width
            raise ValueError("pixels are not square")
        batch = max(1, BATCH_BYTES // (stream.width * stream.height * 3))
    reader = decord.VideoReader(path, ctx=decord.cpu(0), num_threads=1)
    spans = reader.get_frame_timestamp(range(len(reader))).astype(np.float64)
    starts = spans[:, 0] - spans[0, 0]
    duration = spans[-1, 1] - spans[0, 0]
    if not (np.diff(starts) > 0).all() or not starts[-1] <= duration < np.inf:
        raise ValueError("decord knows no timestamps for this file")
    times = choose_times(path, duration, fps, max_frames, sampling)
    chosen = shown_at(starts, times)
    images: list[np.ndarray] = []
    for first in range(0, len(chosen), batch):
        pictures = reader.get_batch(chosen[first : first + batch]).asnumpy()
        _, height, width, channels = pictures.shape
        if channels != 3:
            raise ValueError("decord returned pictures of an impossible shape")
        images += [_resized(picture, fitted_size(width, height, size)) for picture in pictures]
    return Frames(times, np.stack(images))


def _decode_pyav(path: str, fps: float, size: int, max_frames: int, sampling: str) -> Frames:
    """Decode from the first frame to the last, keeping candidates on the way; again for those that were not known then:
    more than `max_frames`, or timestamps out of order (AVI)."""
    kept: dict[int, np.ndarray] = {}
    starts: list[float] = []
    length = 0.0
    target: tuple[int, int] | None = None
    due = 0
    duration = 0.0 if sampling == "uniform" else shown_duration(path)
    planned = choose_times(path, duration, fps, max_frames, sampling) if duration else None
    for index, (shown, following) in enumerate(itertools.pairwise(itertools.chain(_shown(path), [None]))):
        assert shown is not None
        starts.append(shown.start)
        length = shown.length
        target = target or fitted_size(*shown.display_size(), size)
        end = math.inf if following is None else following.start - starts[0] - TIME_TOLERANCE_S
        while due < max_frames and (
            (due + 0.5) / fps < end if planned is None else due < len(planned) and planned[due] < end
        ):
            if index not in kept:
                kept[index] = _resized(shown.upright(), target)
            due += 1
    if target is None:
        raise ClipBertError(f"{path}: not one frame can be decoded")
    ordered = np.sort(starts)
    ordered -= ordered[0]
    if not length and len(ordered) > 1:
        length = float(np.median(np.diff(ordered)))
    times = candidate_times(ordered[-1] + length, fps, max_frames) if planned is None else planned
    chosen = shown_at(ordered, times)
    missing = set(chosen.tolist()) - kept.keys()
    if missing:
        for index, shown in enumerate(itertools.islice(_shown(path), max(missing) + 1)):
            if index in missing:
                kept[index] = _resized(shown.upright(), target)
    return Frames(times, np.stack([kept[index] for index in chosen.tolist()]))


@dataclass(frozen=True)
class _Shown:
    """A decoded frame: when it comes (seconds, from an origin of the file's own), how long it stays, how to show it."""

    frame: Any
    start: float
    length: float
    aspect: float

    def _matrix(self) -> tuple[float, float, float, float]:
        """a, b, c, d of the display matrix: (x, y) is shown at (a x + c y, b x + d y)."""
        data = self.frame.side_data.get("DISPLAYMATRIX")
        if data is None:
            return 1.0, 0.0, 0.0, 1.0
        a, b, _, c, d, *_ = np.frombuffer(bytes(data), np.int32).tolist()
        return a, b, c, d

    def display_size(self) -> tuple[int, int]:
        """(width, height) upright and with square pixels."""
        a, b, _, _ = self._matrix()
        width, height = max(1, round(self.frame.width * self.aspect)), self.frame.height
        return (height, width) if abs(b) > abs(a) else (width, height)

    def upright(self) -> np.ndarray:
        """The picture (H, W, 3) uint8 RGB, turned and mirrored as it is meant to be seen; pixels as stored."""
        image = self.frame.to_ndarray(format="rgb24")
        a, b, c, d = self._matrix()
        if abs(b) > abs(a):
            image, a, d = image.transpose(1, 0, 2), c, b
        image = image[:, ::-1] if a < 0 else image
        return np.ascontiguousarray(image[::-1] if d < 0 else image)


def _shown(path: str) -> Iterator[_Shown]:
    """Every frame that can be decoded, in the order in which they are shown."""
    import av

    with av.open(path, metadata_errors="ignore") as container:
        stream = container.streams.best("video")
        if stream is None:
            raise ClipBertError(f"{path}: no video stream")
        stream.codec_context.thread_count = 1
        aspect = _pixel_aspect(stream)
        rate = float(stream.average_rate or stream.guessed_rate or 25)
        start = -1 / rate
        for packet in container.demux(stream):
            try:
                frames = packet.decode()
            except av.error.InvalidDataError:
                # as every player does: a damaged packet costs its own frames
                continue
            for frame in frames:
                start = start + 1 / rate if frame.pts is None else float(frame.pts * frame.time_base)
                yield _Shown(frame, start, float((frame.duration or 0) * (frame.time_base or 0)), aspect)
