"""What one media file is: its container read to the end, its first and last frames decoded by the decoder that will
serve it. Runs in a worker process, for native decoders hang and crash on hostile files."""

import contextlib
import os
import re
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import decord
import numpy as np
from av.stream import Disposition
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from clipbert.data.decoder_choice import Scan, choose_decoder
from clipbert.data.media_types import IMAGE_SUFFIXES
from clipbert.files import sha256_file

MAX_PIXELS = 100_000_000
DETAIL_CHARS = 200
RATE_TOLERANCE = 0.1
SEEK_BACK_S = (0.0, 10.0, None)
# A container that promises more than it holds by this share, within these seconds, was cut off.
MISSING_SHARE, MISSING_LEAST_S, MISSING_MOST_S = 0.05, 0.5, 5.0
EXIF_ROTATION = {3: 180, 4: 180, 5: 270, 6: 270, 7: 90, 8: 90}


@dataclass(frozen=True)
class MediaInfo:
    """A usable file: the columns of the videos table but `media` and `split`, with their units."""

    kind: str
    sha256: str
    bytes: int
    container: str
    codec: str
    width: int
    height: int
    fps: float
    duration_s: float
    num_frames: int | None
    rotation: int
    path_taken: str
    path_reason: str
    looks: list[int] | None = None
    brightness: float | None = None
    motion: float | None = None
    damage: str | None = None
    first_bad_s: float | None = None


@dataclass(frozen=True)
class Rejected:
    """A file that goes to quarantine: a reason code and what was seen.

    Codes: unreadable, no_video_stream, too_short (no frame), truncated (the file ends early), corrupt (complete, but
    frames cannot be decoded), memory, timeout, link_outside.
    """

    reason: str
    detail: str


class ProbeError(Exception):
    """A file that cannot be used."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


def probe(data: str, media: str) -> MediaInfo | Rejected:
    """Say what the file `media` below the folder `data` is, or why it cannot be used. Never raises for a bad file."""
    path = Path(data) / media
    try:
        size = path.stat().st_size
        if size == 0:
            raise ProbeError("unreadable", "the file is empty (0 bytes)")
        sha256 = sha256_file(path)
        found = _probe_image(path) if path.suffix.lower() in IMAGE_SUFFIXES else _probe_video(path)
    except ProbeError as error:
        return Rejected(error.reason, str(error))
    except MemoryError:
        return Rejected("memory", "decoding needs more memory than there is")
    except Exception as error:
        return Rejected("unreadable", first_line(error))
    return MediaInfo(sha256=sha256, bytes=size, **found)


def first_line(error: BaseException) -> str:
    """An error of a decoder in one short line: no path, no C++ stack."""
    reason = getattr(error, "strerror", None)
    if reason:
        return str(reason)
    lines = [line.strip() for line in str(error).splitlines()]
    text = next((line for line in lines if line), type(error).__name__)
    text = re.sub(r"^(\[[\d:]+\]\s*|\S+\.cc:\d+:\s*)+", "", text)
    return text[:DETAIL_CHARS]


def _probe_video(path: Path) -> dict[str, Any]:
    with _open(path) as container:
        kinds = {other.type for other in container.streams}
        if not kinds & {"video", "audio", "subtitle"}:
            raise ProbeError("unreadable", "holds no stream; its index is missing or cut off")
        stream = container.streams.best("video")
        if stream is None or Disposition.attached_pic in stream.disposition:
            raise ProbeError("no_video_stream", f"holds only {', '.join(sorted(kinds - {'video'})) or 'a cover'}")
        if stream.codec_context is None:
            raise ProbeError("unreadable", "its codec is unknown")
        name = container.format.name
        codec = stream.codec_context.codec.canonical_name
        stored = stream.codec_context.width, stream.codec_context.height
        if stored[0] * stored[1] > MAX_PIXELS:
            raise ProbeError("memory", f"frames of {stored[0]}x{stored[1]} pixels; at most {MAX_PIXELS} are decoded")
        index = stream.index
        aspect = stream.sample_aspect_ratio or Fraction(1)
        rate = float(stream.average_rate or 0)
        declared = _seconds(stream.duration, stream.time_base)
        whole_declared = _seconds(container.duration, Fraction(1, av.time_base))
        scan = _scan(container, index)

    shown = scan.packets - scan.hidden
    if shown < 1:
        raise ProbeError("too_short", "its video stream holds no frame")
    _check_complete(scan, declared, whole_declared)
    rotation, mirrored = _first_frame(path, index)

    span = scan.end_s - scan.start_s if scan.end_s is not None and scan.start_s is not None else None
    duration = span or declared or whole_declared or shown / (rate or 25.0)
    if abs(shown / duration - rate) > RATE_TOLERANCE * rate:
        rate = shown / duration
    family = name.split(",")[0]
    width, height = max(1, round(stored[0] * aspect)), stored[1]
    sideways = rotation in (90, 270)
    path_taken, path_reason = choose_decoder(family, codec, scan, mirrored)
    if path_taken == "decord":
        trouble = _decord_trouble(path, scan.packets, stored[::-1] if sideways else stored)
        if trouble:
            path_taken, path_reason = "pyav", trouble
    if path_taken == "pyav":
        _check_late_frame(path, index, scan.end_s)
    return {
        "kind": "video",
        "container": path.suffix[1:].lower() if path.suffix[1:].lower() in name.split(",") else family,
        "codec": codec,
        "width": height if sideways else width,
        "height": width if sideways else height,
        "fps": rate,
        "duration_s": duration,
        "num_frames": shown,
        "rotation": rotation,
        "path_taken": path_taken,
        "path_reason": path_reason,
    }


def _open(path: Path) -> Any:
    try:
        return av.open(os.fspath(path), metadata_errors="replace")
    except av.FFmpegError as error:
        raise ProbeError("unreadable", f"not a video or its index is missing ({first_line(error)})") from error


def _seconds(ticks: int | None, time_base: Fraction | None) -> float | None:
    return float(ticks * time_base) if ticks and time_base and ticks > 0 else None


def _scan(container: Any, index: int) -> Scan:
    """Read every packet of the file."""
    packets = hidden = untimed = leading = 0
    starts_on_key, ends_corrupt = True, False
    start_s = end_s = whole_end_s = None
    key_pts: int | None = None
    try:
        for packet in container.demux():
            if packet.size == 0 and packet.dts is None:
                continue
            video = packet.stream_index == index
            if packet.pts is not None and not packet.is_discard:
                start = float(packet.pts * packet.time_base)
                end = start + float((packet.duration or 0) * packet.time_base)
                whole_end_s = end if whole_end_s is None else max(whole_end_s, end)
                if video:
                    start_s = start if start_s is None else min(start_s, start)
                    end_s = end if end_s is None else max(end_s, end)
            if not video:
                continue
            starts_on_key = starts_on_key and (packets > 0 or packet.is_keyframe)
            packets += 1
            hidden += packet.is_discard
            ends_corrupt = packet.is_corrupt
            if packet.pts is None:
                untimed += 1
            elif packet.is_keyframe:
                key_pts = packet.pts
            elif key_pts is not None and packet.pts < key_pts:
                leading += 1
    except av.FFmpegError as error:
        raise ProbeError("corrupt", f"reading stopped after {packets} frames ({first_line(error)})") from error
    return Scan(packets, hidden, untimed, leading, starts_on_key, ends_corrupt, start_s, end_s, whole_end_s)


def _check_complete(scan: Scan, declared: float | None, whole_declared: float | None) -> None:
    """Compare what the header promises with what the packets hold."""
    if scan.ends_corrupt:
        raise ProbeError("truncated", f"the last of {scan.packets} frames is cut off")
    promised = declared or whole_declared
    if promised is None or scan.start_s is None or scan.end_s is None or scan.whole_end_s is None:
        return
    held = scan.end_s - scan.start_s if declared else scan.whole_end_s
    if promised - held > min(max(MISSING_SHARE * promised, MISSING_LEAST_S), MISSING_MOST_S):
        raise ProbeError("truncated", f"ends after {held:.1f} s; its header says {promised:.1f} s")


def _first_frame(path: Path, index: int) -> tuple[int, bool]:
    """Decode the first frame: (degrees counter-clockwise to upright, mirrored)."""
    try:
        with _open(path) as container:
            frame = next(container.decode(container.streams[index]), None)
    except av.FFmpegError as error:
        raise ProbeError("unreadable", f"the first frame cannot be decoded ({first_line(error)})") from error
    if frame is None:
        raise ProbeError("too_short", "no frame comes out of its video stream")
    matrix = next((side for side in frame.side_data if side.type.name == "DISPLAYMATRIX"), None)
    if matrix is None:
        return 0, False
    values = np.frombuffer(matrix, dtype=np.int32).astype(np.float64)
    mirrored = values[0] * values[4] - values[1] * values[3] < 0
    return round(frame.rotation / 90) * 90 % 360, bool(mirrored)


def _decord_trouble(path: Path, packets: int, size: tuple[int, int]) -> str | None:
    """Decode the first and the last frame with decord: None, or what speaks against it."""
    try:
        reader = decord.VideoReader(os.fspath(path), num_threads=1)
        count = len(reader)
        shapes = [reader[0].shape, reader[count - 1].shape]
    except (RuntimeError, decord.DECORDError, IndexError) as error:
        return f"decord cannot decode it ({first_line(error)})"
    if count != packets:
        return f"decord counts {count} frames, the container holds {packets}"
    expected = (size[1], size[0], 3)
    wrong = [shape for shape in shapes if tuple(shape) != expected]
    return f"decord returns frames of shape {wrong[0]} for {expected}" if wrong else None


def _check_late_frame(path: Path, index: int, end_s: float | None) -> None:
    """Decode the end of the file with PyAV, from ever further back until a frame comes out."""
    failure = "no frame comes out"
    for back_s in SEEK_BACK_S if end_s is not None else (None,):
        with _open(path) as container:
            stream = container.streams[index]
            if back_s is not None and end_s is not None:
                with contextlib.suppress(av.FFmpegError):
                    container.seek(max(0, int((end_s - back_s) / stream.time_base)), stream=stream)
            decoded, failure = _decode_on(container, stream)
        if decoded and not failure:
            return
        if decoded:
            break
    raise ProbeError("corrupt", f"a late frame cannot be decoded ({failure})")


def _decode_on(container: Any, stream: Any) -> tuple[int, str]:
    """Decode from here to the end: (frames, error after the first of them). A seek may land before a key frame."""
    decoded, failure = 0, ""
    try:
        for packet in container.demux(stream):
            try:
                decoded += len(packet.decode())
            except av.InvalidDataError as error:
                failure = first_line(error)
                if decoded:
                    return decoded, failure
    except av.FFmpegError as error:
        return decoded, first_line(error)
    return decoded, "" if decoded else failure or "no frame comes out"


def _probe_image(path: Path) -> dict[str, Any]:
    try:
        with Image.open(path) as image:
            if image.width * image.height > MAX_PIXELS:
                raise ProbeError("memory", f"{image.width}x{image.height} pixels; at most {MAX_PIXELS} are decoded")
            name = (image.format or "").lower()
            rotation = EXIF_ROTATION.get(image.getexif().get(ExifTags.Base.Orientation, 1), 0)
            upright = ImageOps.exif_transpose(image).convert("RGB")
    except UnidentifiedImageError as error:
        raise ProbeError("unreadable", "not an image of a known format") from error
    except Image.DecompressionBombError as error:
        raise ProbeError("memory", first_line(error)) from error
    except OSError as error:
        reason = "truncated" if "truncated" in str(error) else "unreadable"
        raise ProbeError(reason, first_line(error)) from error
    return {
        "kind": "image",
        "container": name,
        "codec": name,
        "width": upright.width,
        "height": upright.height,
        "fps": 1.0,
        "duration_s": 1.0,
        "num_frames": 1,
        "rotation": rotation,
        "path_taken": "pil",
        "path_reason": "an image: one frame shown for one second",
    }
