"""A found moment as a file that players open."""

import shutil
import subprocess
import sys
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from clipbert.errors import ClipBertError, first_line
from clipbert.files.atomic import atomic_write
from clipbert.files.leftovers import scratch_folder
from clipbert.process_pool import WorkerError, time_limit
from clipbert.video.media_types import IMAGE_SUFFIXES

OUTPUTS = (".mp4", ".mkv", ".mov")
TIME_BASE = Fraction(1, 90_000)
WHOLE_WITHIN_S = 0.05
QUALITY = "20"  # constant rate factor of x264


def write_moment(source: Path, start_s: float, end_s: float, out: Path, timeout_s: float, max_worker_mb: int) -> None:
    """Write the part of a video from `start_s` to `end_s` as h264, without sound; copy an image as it is.

    The video is decoded from its start, so that the cut is exact for every file, in a process that is killed if it
    hangs.

    Args:
        timeout_s: seconds for a minute of video.
        max_worker_mb: memory of the process.

    Raises:
        ClipBertError: the file is missing or cannot be decoded, `out` has another suffix than those that are written,
            its folder does not exist, or the disk is full.
    """
    from clipbert.sampling.decoder_pool import decoder_pool
    from clipbert.sampling.video_input import existing_file

    existing_file(source)
    image = source.suffix.lower() in IMAGE_SUFFIXES
    expected = (source.suffix.lower(),) if image else OUTPUTS
    if out.suffix.lower() not in expected:
        raise ClipBertError(f"{out}: expected a file name that ends in {' or '.join(expected)}.")
    if not out.absolute().parent.is_dir():
        raise ClipBertError(f"{out}: the folder {out.parent} does not exist. Create it.")
    with scratch_folder() as scratch:
        made = source
        if not image:
            made = scratch / f"moment{out.suffix.lower()}"
            limit = 2 * time_limit(timeout_s, size=source.stat().st_size)
            job = decoder_pool(max_worker_mb).submit(
                encode_part, str(source.absolute()), start_s, end_s, str(made), timeout_s=limit
            )
            try:
                job.result()
            except (WorkerError, OSError, ValueError) as error:  # PyAV's errors are of these types
                raise ClipBertError(f"{source}: the moment cannot be written: {first_line(error)}.") from error
        with atomic_write(out) as file, made.open("rb") as content:
            shutil.copyfileobj(content, file)


def encode_part(source: str, start_s: float, end_s: float, out: str) -> None:
    """Encode a part of a video in this process.

    Raises:
        ClipBertError: no frame lies in it, or the file cannot be decoded.
    """
    import av

    from clipbert.video.sequential import shown_frames

    first: float | None = None
    written = 0
    with av.open(out, "w") as container:
        stream: Any = None
        held: tuple[float, np.ndarray] | None = None
        for shown in shown_frames(source):
            first = shown.start if first is None else first
            time = shown.start - first
            if time >= end_s:
                break
            if time < start_s:
                held = (time, shown.upright())
                continue
            if stream is None:
                if held is not None and time > start_s:  # the frame that is on screen when the moment starts
                    stream = _stream(container, held[1])
                    written += _encode(container, stream, held[1], 0.0)
                else:
                    stream = _stream(container, shown.upright())
            written += _encode(container, stream, shown.upright(), time - start_s)
        if stream is None and held is not None:  # one frame lasts for all of the moment
            stream = _stream(container, held[1])
            written += _encode(container, stream, held[1], 0.0)
        if stream is None:
            raise ClipBertError(f"{source}: no frame from {start_s:g} to {end_s:g} s.")
        for packet in stream.encode():
            container.mux(packet)


def _stream(container: Any, picture: np.ndarray) -> Any:
    stream = container.add_stream("libx264", rate=30, options={"crf": QUALITY, "preset": "veryfast"})
    height, width = picture.shape[:2]
    stream.width, stream.height, stream.pix_fmt = max(2, width // 2 * 2), max(2, height // 2 * 2), "yuv420p"
    stream.codec_context.time_base = stream.time_base = TIME_BASE
    stream.codec_context.thread_count = 1
    return stream


def _encode(container: Any, stream: Any, picture: np.ndarray, time_s: float) -> int:
    import av

    size = (stream.width, stream.height)
    frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(_fitted(picture, size)), format="rgb24")
    frame.pts, frame.time_base = round(time_s / TIME_BASE), TIME_BASE
    for packet in stream.encode(frame):
        container.mux(packet)
    return 1


def _fitted(picture: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Return a picture of the size of the stream, whose sides are even; a video may change its size."""
    from PIL import Image

    width, height = size
    if (
        picture.shape[0] >= height
        and picture.shape[1] >= width
        and max(picture.shape[0] - height, picture.shape[1] - width) <= 1
    ):
        return picture[:height, :width]
    return np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.BILINEAR))


def play(file: Path) -> None:
    """Open a file with the player of the desktop.

    Raises:
        ClipBertError: this machine has no program that opens files.
    """
    opener = "open" if sys.platform == "darwin" else "xdg-open"
    program = shutil.which(opener)
    if program is None:
        raise ClipBertError(
            f"--play: {opener} is not installed here. Write the moment with --clip and --output instead."
        )
    subprocess.Popen(
        [program, str(file)], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
