"""Probe of one media file: the container is read to its end and pictures over the whole length are decoded.

It runs in a worker process, because native decoders hang and crash on hostile files.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from clipbert.data.ingest.container import (
    Header,
    ProbeError,
    check_complete,
    missing_allowed,
    read_header,
    scan_packets,
)
from clipbert.data.ingest.decoder_choice import SILENT_CODECS, Scan, choose_decoder, suspicion
from clipbert.data.ingest.repeatability import UNREPEATABLE, UNREPEATABLE_CODECS, first_difference
from clipbert.data.ingest.verify import NotEqualError, compare_decoders
from clipbert.data.perceptual_hash import PICTURES, visual_signature
from clipbert.errors import ClipBertError, first_line
from clipbert.files.atomic import sha256_file
from clipbert.sampling.candidates import Frames, decode_image, decode_with_decord, decode_with_pyav
from clipbert.video.media_types import IMAGE_FORMATS, IMAGE_SUFFIXES
from clipbert.video.random_access import NotExactError, RandomAccess
from clipbert.video.remarks import Remarks
from clipbert.video.sequential import Shown, shown_frames

FORMAT = 4
MEGA = 1e6
RATE_TOLERANCE = 0.1
LOOK_SIZE = 32
# Pictures of a file on which decord and the sequential decode are compared; more where damage is hidden.
COMPARED, COMPARED_SILENT = 24, 96
# A file is rejected when more than this fraction of its frames cannot be decoded.
MOST_DAMAGE = 0.5
EXIF_ROTATION = {3: 180, 4: 180, 5: 270, 6: 270, 7: 90, 8: 90}


@dataclass(frozen=True)
class MediaInfo:
    """Usable file: the columns of the videos table except `media` and `split`, with their units."""

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
    remarks: str | None = None


@dataclass(frozen=True)
class Rejected:
    """File for the quarantine: a reason code (see `clipbert.data.quarantine`), what was seen, and the seconds from its
    start to the first damage, where known."""

    reason: str
    detail: str
    first_bad_s: float | None = None


@dataclass(frozen=True)
class Limits:
    """Limits of a file: durations in seconds, frames in megapixels, long side over short side."""

    min_duration_s: float = 0.0
    max_duration_s: float = float("inf")
    max_megapixels: float = 100.0
    max_aspect: float = float("inf")

    def check_frame(self, width: int, height: int) -> None:
        """Check the size of a frame.

        Raises:
            ProbeError: too_large, extreme_aspect.
        """
        if width * height > self.max_megapixels * MEGA:
            raise ProbeError(
                "too_large",
                f"frames of {width}x{height} pixels; ingest.max_megapixels is {self.max_megapixels:g}",
            )
        aspect = max(width, height) / max(1, min(width, height))
        if aspect > self.max_aspect:
            raise ProbeError(
                "extreme_aspect",
                f"{width}x{height} pixels, {aspect:.3g} to 1; ingest.max_aspect is {self.max_aspect:g}",
            )

    def check_duration(self, seconds: float) -> None:
        """Check the duration of a video.

        Raises:
            ProbeError: too_short, too_long.
        """
        if seconds < self.min_duration_s:
            raise ProbeError("too_short", f"lasts {seconds:.2f} s; ingest.min_duration_s is {self.min_duration_s:g}")
        if seconds > self.max_duration_s:
            raise ProbeError("too_long", f"lasts {seconds:.1f} s; ingest.max_duration_s is {self.max_duration_s:g}")

    def check(self, info: MediaInfo) -> None:
        """Check a file that was probed before against the limits.

        Raises:
            ProbeError: as the other two.
        """
        self.check_frame(info.width, info.height)
        if info.kind == "video":
            self.check_duration(info.duration_s)


def probe(
    data: str,
    media: str,
    limits: Limits | None = None,
    verify: str = "always",
    careful: bool = False,
    sha256: str | None = None,
) -> MediaInfo | Rejected:
    """Probe the file `media` below the folder `data`; a file that cannot be used gives `Rejected`, never an exception.

    Args:
        verify: which files' frames are compared between decord and a sequential decode: never, suspicious, always.
        careful: do not use decord.
        sha256: of the file's bytes, where it is known already.
    """
    path = Path(data) / media
    limits = limits or Limits()
    try:
        size = path.stat().st_size
        if size == 0:
            raise ProbeError("unreadable", "the file is empty (0 bytes)")
        sha256 = sha256 or sha256_file(path)
        if path.suffix.lower() in IMAGE_SUFFIXES:
            found = _probe_image(path, limits)
        else:
            found = _probe_video(path, limits, "never" if careful else verify, careful)
            if verify != "never" and found["codec"] in UNREPEATABLE_CODECS:
                found |= _repeatability(path, found)
    except ProbeError as error:
        return Rejected(error.reason, str(error), error.first_bad_s)
    except MemoryError:
        return Rejected("memory", "decoding needs more memory than there is")
    except Exception as error:
        return Rejected("unreadable", first_line(error))
    return MediaInfo(sha256=sha256, bytes=size, **found)


def _probe_video(path: Path, limits: Limits, verify: str, careful: bool) -> dict[str, Any]:
    header = read_header(path)
    limits.check_frame(header.width, header.height)
    scan = scan_packets(path)
    shown = scan.packets - scan.hidden
    if shown < 1:
        raise ProbeError("too_short", "its video stream holds no frame")
    check_complete(scan, header)
    first = _first_frame(path)
    remarks = Remarks()
    remarks.see(first.frame, first.start)
    width, height = first.display_size()
    limits.check_frame(width, height)
    span = scan.end_s - scan.start_s if scan.end_s is not None and scan.start_s is not None else None
    duration = span or header.declared_s or header.whole_declared_s or shown / (header.rate or 25.0)
    limits.check_duration(duration)

    path_taken, path_reason = choose_decoder(
        header.family, header.codec, scan, first.mirrored(), header.streams, header.aspect == 1
    )
    if careful and path_taken == "decord":
        path_taken, path_reason = "pyav", "decord hung, crashed or took too much memory"
    frames = None
    if path_taken == "decord":
        frames, trouble = _with_decord(path, scan, first, header, verify, remarks)
        if frames is None:
            path_taken, path_reason = "pyav", trouble
        elif trouble:
            path_reason = f"{path_reason}; {trouble}"
    if frames is None:
        remarks = Remarks()
        frames = _with_pyav(path, scan, duration, remarks)
    duration = frames.duration_s or duration
    rate = header.rate
    if abs(shown / duration - rate) > RATE_TOLERANCE * rate:
        rate = shown / duration
    return {
        "kind": "video",
        "container": header.container,
        "codec": header.codec,
        "width": width,
        "height": height,
        "fps": rate,
        "duration_s": duration,
        "num_frames": shown,
        "rotation": first.rotation(),
        "path_taken": path_taken,
        "path_reason": path_reason,
        "damage": frames.damage.describe() if frames.damage else None,
        "first_bad_s": frames.damage.first_s if frames.damage else None,
        "remarks": remarks.describe(),
        **_looks(frames),
    }


def _repeatability(path: Path, found: dict[str, Any]) -> dict[str, Any]:
    """Return the changed columns of a file that decodes differently each time; none for another file."""
    since = first_difference(path)
    if since is None:
        return {}
    earlier = [time for time in (found["first_bad_s"], since) if time is not None]
    changed: dict[str, Any] = {
        "damage": "; ".join(filter(None, (found["damage"], UNREPEATABLE))),
        "first_bad_s": min(earlier),
    }
    if found["path_taken"] == "decord":
        changed |= {"path_taken": "pyav", "path_reason": f"it {UNREPEATABLE}"}
    return changed


def _first_frame(path: Path) -> Shown:
    frames = shown_frames(path)
    try:
        first = next(frames, None)
    except av.FFmpegError as error:
        raise ProbeError("unreadable", f"the first frame cannot be decoded ({first_line(error)})", 0.0) from error
    finally:
        frames.close()
    if first is None:
        raise ProbeError("unreadable", "no frame comes out of its video stream", 0.0)
    return first


def _spread(duration: float) -> np.ndarray:
    """Return the times, (PICTURES,) seconds, of the pictures in a video's signature."""
    return (np.arange(PICTURES) + 0.5) * duration / PICTURES


def _to_the_ends(duration: float) -> np.ndarray:
    return np.concatenate([[0.0], _spread(duration), [duration]])


def _with_decord(
    path: Path, scan: Scan, first: Shown, header: Header, verify: str, remarks: Remarks
) -> tuple[Frames | None, str]:
    """Return the signature by decord and a remark, or None and the reason against decord."""
    try:
        video = RandomAccess(path)
        if len(video) != scan.packets:
            return None, f"decord counts {len(video)} frames, the container holds {scan.packets}"
        shape = next(video.read(np.zeros(1, np.int64))).shape
        expected = (first.display_size()[1], first.display_size()[0], 3)
        if shape != expected:
            return None, f"decord returns frames of shape {shape} for {expected}"
        frames = decode_with_decord(video, _to_the_ends, LOOK_SIZE)
        doubt = suspicion(header.family, header.codec, scan)
        if verify == "always" or (verify == "suspicious" and doubt):
            pictures = COMPARED_SILENT if header.codec in SILENT_CODECS else COMPARED
            compared = compare_decoders(str(path), pictures, remarks)
            because = f", for {doubt}" if doubt else ""
            return frames, f"{compared} frames compared with a sequential decode{because}: equal"
    except (NotExactError, NotEqualError) as error:
        return None, str(error)
    except (ClipBertError, av.FFmpegError) as error:
        return None, first_line(error)
    return frames, ""


def _with_pyav(path: Path, scan: Scan, duration: float, remarks: Remarks) -> Frames:
    """Return the signature by a full sequential decode, which detects all damage.

    Raises:
        ProbeError: truncated, or more is damaged than not.
    """
    try:
        frames = decode_with_pyav(str(path), _to_the_ends, LOOK_SIZE, remarks)
    except ClipBertError as error:
        raise ProbeError("unreadable", str(error).removeprefix(f"{path}: "), 0.0) from error
    damage = frames.damage
    if damage is None:
        return frames
    if damage.packets + damage.pictures > MOST_DAMAGE * scan.packets:
        raise ProbeError("unreadable", f"most of it: {damage.describe()}", damage.first_s)
    if duration - frames.duration_s > missing_allowed(duration):
        detail = f"after {frames.duration_s:.1f} of {duration:.1f} s no frame can be decoded ({damage.describe()})"
        raise ProbeError("truncated", detail, damage.first_s)
    return frames


def _looks(frames: Frames) -> dict[str, Any]:
    pictures = frames.images if len(frames.images) == 1 else frames.images[1:-1]
    grey = np.stack([np.asarray(Image.fromarray(picture).convert("L")) for picture in pictures])
    found = visual_signature(grey)
    return {"looks": found.hashes, "brightness": found.brightness, "motion": found.motion}


def _probe_image(path: Path, limits: Limits) -> dict[str, Any]:
    try:
        with Image.open(path, formats=IMAGE_FORMATS) as image:
            limits.check_frame(image.width, image.height)
            name = (image.format or "").lower()
            pictures = getattr(image, "n_frames", 1)
            orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
            rotation = EXIF_ROTATION.get(orientation, 0)
            width, height = image.size if orientation < 5 else image.size[::-1]
        frames = decode_image(str(path), LOOK_SIZE)
    except UnidentifiedImageError as error:
        raise ProbeError("unreadable", "not an image of a known format") from error
    except Image.DecompressionBombError as error:
        raise ProbeError("too_large", first_line(error)) from error
    except OSError as error:
        reason = "truncated" if "truncated" in str(error) else "unreadable"
        raise ProbeError(reason, first_line(error)) from error
    return {
        "kind": "image",
        "container": name,
        "codec": name,
        "width": width,
        "height": height,
        "fps": 1.0,
        "duration_s": 1.0,
        "num_frames": 1,
        "rotation": rotation,
        "path_taken": "pil",
        "path_reason": "an image: one frame shown for one second",
        "remarks": f"holds {pictures} pictures: the first is used" if pictures > 1 else None,
        **_looks(frames),
    }
