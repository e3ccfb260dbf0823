"""Sequential decoding with PyAV, the reference: every frame in order, with its time, upright and opaque.

It is slow, and correct for every file that FFmpeg can read. The other decoders are compared with it.
"""

import contextlib
import os
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
from PIL import Image

from clipbert.errors import ClipBertError, first_line
from clipbert.video.remarks import Remarks

# Self-contained formats: playlists and lists of files (concat, hls, dash, sdp) would open other files.
FORMATS = "mov,matroska,webm,avi,flv,mpegts,mpeg,mpegvideo,asf,asf_o,gif,ogg,rm,mxf,nut,ivf,dv,wtv"
SQUARE_WITHIN = 0.01
DEFAULT_RATE = 25.0


def open_media(path: str | os.PathLike[str]) -> Any:
    """Open a media file with PyAV; files that it refers to are not opened.

    Raises:
        av.FFmpegError: not a container that is read here, or a broken one.
    """
    import av

    return av.open(os.fspath(path), options={"format_whitelist": FORMATS}, metadata_errors="replace")


def video_streams(container: Any) -> list[Any]:
    """Return the video streams of a container, without covers and thumbnails."""
    from av.stream import Disposition

    still = Disposition.attached_pic | Disposition.timed_thumbnails | Disposition.still_image
    return [
        stream
        for stream in container.streams.video
        if stream.codec_context is not None and not stream.disposition & still
    ]


def main_stream(container: Any) -> Any | None:
    """Return the stream to decode: the first of the largest ones marked as default, else of all; None without video."""
    from av.stream import Disposition

    return max(
        video_streams(container),
        key=lambda stream: (
            bool(stream.disposition & Disposition.default),
            stream.codec_context.width * stream.codec_context.height,
            -stream.index,
        ),
        default=None,
    )


def pixel_aspect(stream: Any) -> float:
    """Return width over height of one stored pixel; a ratio that only compensates rounded sides counts as square."""
    ratio = float(stream.sample_aspect_ratio or 1)
    return 1.0 if abs(ratio - 1) <= SQUARE_WITHIN or ratio <= 0 else ratio


@dataclass(frozen=True)
class Shown:
    """Decoded frame with its time in seconds from the file's own origin, its duration and its orientation."""

    frame: Any
    start: float
    length: float
    aspect: float

    def _matrix(self) -> tuple[float, float, float, float]:
        """Return a, b, c, d of the display matrix: (x, y) is shown at (a x + c y, b x + d y)."""
        data = self.frame.side_data.get("DISPLAYMATRIX")
        if data is None:
            return 1.0, 0.0, 0.0, 1.0
        a, b, _, c, d, *_ = np.frombuffer(bytes(data), np.int32).tolist()
        return (a, b, c, d) if a * d - b * c else (1.0, 0.0, 0.0, 1.0)

    def rotation(self) -> int:
        """Return the degrees counter-clockwise, a multiple of 90, that turn the stored picture upright."""
        return int(round(self.frame.rotation / 90) * 90 % 360)

    def mirrored(self) -> bool:
        """Return whether the display matrix also flips the picture."""
        a, b, c, d = self._matrix()
        return a * d - b * c < 0

    def display_size(self) -> tuple[int, int]:
        """Return (width, height), upright and with square pixels."""
        width, height = max(1, round(self.frame.width * self.aspect)), self.frame.height
        a, b, _, _ = self._matrix()
        return (height, width) if abs(b) > abs(a) else (width, height)

    def upright(self) -> np.ndarray:
        """Return the picture (H, W, 3) uint8 RGB, turned and mirrored for display, on white where it is transparent;
        pixels as stored."""
        if any(component.is_alpha for component in self.frame.format.components):
            layer = Image.fromarray(self.frame.to_ndarray(format="rgba", threads=1))
            image = np.asarray(Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB"))
        else:
            image = self.frame.to_ndarray(format="rgb24", threads=1)
        a, b, c, d = self._matrix()
        if abs(b) > abs(a):
            image, a, d = image.transpose(1, 0, 2), c, b
        image = image[:, ::-1] if a < 0 else image
        return np.ascontiguousarray(image[::-1] if d < 0 else image)


@dataclass
class Damage:
    """What a decoder skipped or concealed: `packets` without a picture, `pictures` known to be wrong, its first
    message, and the time of the first damage (seconds, from the origin of `Shown.start`). False if there is none."""

    packets: int = 0
    pictures: int = 0
    complaint: str = ""
    first_s: float | None = None

    def note(self, when: float | None, complaint: str = "") -> None:
        """Keep the first message and the first time."""
        if self.first_s is None:
            self.first_s = when
        self.complaint = self.complaint or complaint

    def __bool__(self) -> bool:
        return bool(self.packets or self.pictures or self.complaint)

    def describe(self) -> str:
        """Return the damage in a few words, for the manifest; None without damage."""
        parts = [f"packets that cannot be decoded: {self.packets}"] if self.packets else []
        parts += [f"damaged pictures: {self.pictures}"] if self.pictures else []
        return "; ".join(parts + ([self.complaint] if self.complaint else []))


def shown_frames(
    path: str | os.PathLike[str], damage: Damage | None = None, remarks: Remarks | None = None
) -> Generator[Shown, None, None]:
    """Yield every frame that can be decoded, in display order.

    Args:
        damage: records what cannot be decoded.
        remarks: records every frame.

    Raises:
        ClipBertError: there is no video stream.
        av.FFmpegError: the file cannot be opened or read to its end.
    """
    import av

    damage = Damage() if damage is None else damage
    with native_errors() as complaints, open_media(path) as container:
        stream = main_stream(container)
        if stream is None:
            raise ClipBertError(f"{os.fspath(path)}: no video stream")
        stream.codec_context.thread_count = 1
        aspect = pixel_aspect(stream)
        rate = float(stream.average_rate or stream.guessed_rate or DEFAULT_RATE)
        start = -1 / rate
        for packet in container.demux(stream):
            try:
                frames = packet.decode()
            except av.error.InvalidDataError as error:
                # like every player: a damaged packet loses its own frames only
                damage.packets += 1
                damage.note(_seconds(packet.pts, packet.time_base), first_line(error))
                continue
            finally:
                if complaints:
                    damage.note(_seconds(packet.pts, packet.time_base), first_line(complaints[0][2]))
                    complaints.clear()
            for frame in frames:
                start = start + 1 / rate if frame.pts is None else float(frame.pts * frame.time_base)
                if frame.is_corrupt:
                    damage.pictures += 1
                    damage.note(start)
                if remarks is not None:
                    remarks.see(frame, start)
                yield Shown(frame, start, float((frame.duration or 0) * (frame.time_base or 0)), aspect)


@contextlib.contextmanager
def native_errors() -> Iterator[list[Any]]:
    """Collect what FFmpeg logs as errors in this thread."""
    import av

    level = av.logging.get_level()
    av.logging.set_level(av.logging.ERROR)
    try:
        with av.logging.Capture() as messages:
            yield messages
    finally:
        av.logging.set_level(level)


def _seconds(ticks: int | None, time_base: Fraction | None) -> float | None:
    return None if ticks is None or time_base is None else float(ticks * time_base)


def packet_span(path: str | os.PathLike[str]) -> float:
    """Return the duration in seconds of the shown packets, read without decoding; 0 if they have no times.

    Raises:
        as `shown_frames`.
    """
    first, last = np.inf, -np.inf
    with open_media(path) as container:
        stream = main_stream(container)
        if stream is None:
            raise ClipBertError(f"{os.fspath(path)}: no video stream")
        for packet in container.demux(stream):
            if packet.pts is not None and packet.size and not packet.is_discard:
                start = float(packet.pts * packet.time_base)
                first = min(first, start)
                last = max(last, start + float((packet.duration or 0) * packet.time_base))
    return max(0.0, float(last - first)) if last > first else 0.0
