"""Header of a video file, and whether the file holds what its header declares; nothing is decoded."""

import re
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av

from clipbert.data.ingest.decoder_choice import Scan
from clipbert.errors import first_line
from clipbert.video.sequential import main_stream, native_errors, open_media, pixel_aspect, video_streams

# A container that declares this fraction more than it holds, within these seconds, was truncated.
MISSING_SHARE, MISSING_LEAST_S, MISSING_MOST_S = 0.05, 0.5, 5.0
LISTS_OF_FILES = re.compile(rb"\s*(#EXTM3U|ffconcat|v=0|<\?xml|<MPD)")


class ProbeError(Exception):
    """Error for a file that cannot be used: a reason code, what was seen, and the second of the first damage."""

    def __init__(self, reason: str, detail: str, first_bad_s: float | None = None) -> None:
        super().__init__(detail)
        self.reason = reason
        self.first_bad_s = first_bad_s


@dataclass(frozen=True)
class Header:
    """Header of a container's video stream: `width` and `height` as stored, `rate` frames per second, 0 if unknown;
    `declared_s` the stream's duration, `whole_declared_s` the file's; `streams` of video, covers included."""

    family: str
    container: str
    codec: str
    width: int
    height: int
    aspect: float
    rate: float
    declared_s: float | None
    whole_declared_s: float | None
    streams: int


def read_header(path: Path) -> Header:
    """Open a video file and read its header.

    Raises:
        ProbeError: unreadable, or no_video_stream.
    """
    with native_errors() as complaints, _open(path) as container:
        kinds = {other.type for other in container.streams}
        if not kinds & {"video", "audio", "subtitle"}:
            raise ProbeError("unreadable", "holds no stream; its index is missing or cut off")
        stream = main_stream(container)
        if stream is None:
            if any(other.codec_context is None for other in container.streams.video):
                raise ProbeError("unreadable", "its codec is unknown")
            kinds -= {"video"} if not container.streams.video else set()
            raise ProbeError("no_video_stream", f"holds only {_listed(kinds)}")
        width, height = _size_of(stream, complaints)
        name = container.format.name
        suffix = path.suffix[1:].lower()
        family = name.split(",")[0]
        return Header(
            family=family,
            container=suffix if suffix in name.split(",") else family,
            codec=stream.codec_context.codec.canonical_name,
            width=width,
            height=height,
            aspect=pixel_aspect(stream),
            rate=float(stream.average_rate or 0),
            declared_s=_seconds(stream.duration, stream.time_base),
            whole_declared_s=_seconds(container.duration, Fraction(1, av.time_base)),
            streams=max(1, len(container.streams.video)) if video_streams(container) else 0,
        )


def _listed(kinds: set[str]) -> str:
    return ", ".join("a cover" if kind == "video" else kind for kind in sorted(kinds)) or "nothing"


def _open(path: Path) -> Any:
    try:
        return open_media(path)
    except av.FFmpegError as error:
        with path.open("rb") as file:
            start = file.read(64)
        if LISTS_OF_FILES.match(start):
            raise ProbeError("unreadable", "a playlist of other files, which are never opened") from error
        raise ProbeError("unreadable", f"not a video or its index is missing ({first_line(error)})") from error


def _size_of(stream: Any, complaints: list[Any]) -> tuple[int, int]:
    width, height = stream.codec_context.width, stream.codec_context.height
    if width and height:
        return width, height
    said = " ".join(str(message[2]) for message in complaints)
    if refused := re.search(r"Picture size (\d+x\d+) is invalid", said):
        raise ProbeError("too_large", f"frames of {refused[1]} pixels, more than any decoder takes")
    raise ProbeError("unreadable", f"its frames have no size ({width}x{height})")


def _seconds(ticks: int | None, time_base: Fraction | None) -> float | None:
    return float(ticks * time_base) if ticks and time_base and ticks > 0 else None


def scan_packets(path: Path) -> Scan:
    """Read every packet of the file.

    Raises:
        ProbeError: truncated: the container cannot be read to its end.
    """
    found = _Counter()
    with _open(path) as container:
        stream = main_stream(container)
        try:
            for packet in container.demux():
                if packet.size or packet.dts is not None:
                    found.add(packet, stream is not None and packet.stream_index == stream.index)
        except av.FFmpegError as error:
            held = None if found.end_s is None or found.start_s is None else found.end_s - found.start_s
            raise ProbeError(
                "truncated", f"reading stopped after {found.packets} frames ({first_line(error)})", held
            ) from error
    return found.scan()


class _Counter:
    def __init__(self) -> None:
        self.packets = self.hidden = self.untimed = self.leading = 0
        self.starts_on_key, self.ends_corrupt = True, False
        self.start_s: float | None = None
        self.end_s: float | None = None
        self.whole_end_s: float | None = None
        self.shortest_s: float | None = None
        self.longest_s: float | None = None
        self._key_pts: int | None = None

    def add(self, packet: Any, video: bool) -> None:
        if packet.pts is not None and not packet.is_discard:
            start = float(packet.pts * packet.time_base)
            length = float((packet.duration or 0) * packet.time_base)
            self.whole_end_s = max(start + length, start if self.whole_end_s is None else self.whole_end_s)
            if video:
                self.start_s = start if self.start_s is None else min(self.start_s, start)
                self.end_s = max(start + length, start if self.end_s is None else self.end_s)
                self.shortest_s = length if self.shortest_s is None else min(self.shortest_s, length)
                self.longest_s = length if self.longest_s is None else max(self.longest_s, length)
        if not video:
            return
        self.starts_on_key = self.starts_on_key and (self.packets > 0 or packet.is_keyframe)
        self.packets += 1
        self.hidden += packet.is_discard
        self.ends_corrupt = packet.is_corrupt
        if packet.pts is None:
            self.untimed += 1
        elif packet.is_keyframe:
            self._key_pts = packet.pts
        elif self._key_pts is not None and packet.pts < self._key_pts:
            self.leading += 1

    def scan(self) -> Scan:
        return Scan(**{name: getattr(self, name) for name in Scan.__dataclass_fields__})


def check_complete(scan: Scan, header: Header) -> None:
    """Compare what the header declares with what the packets hold.

    Raises:
        ProbeError: truncated.
    """
    held = None if scan.end_s is None or scan.start_s is None else scan.end_s - scan.start_s
    if scan.ends_corrupt:
        raise ProbeError("truncated", f"the last of {scan.packets} frames is cut off", held)
    promised = header.declared_s or header.whole_declared_s
    if promised is None or held is None or scan.whole_end_s is None:
        return
    if not header.declared_s:
        held = scan.whole_end_s
    if promised - held > missing_allowed(promised):
        raise ProbeError("truncated", f"ends after {held:.1f} s; its header says {promised:.1f} s", held)


def missing_allowed(duration_s: float) -> float:
    """Return the seconds that may be missing from the end of a video that is not called truncated."""
    return min(max(MISSING_SHARE * duration_s, MISSING_LEAST_S), MISSING_MOST_S)
