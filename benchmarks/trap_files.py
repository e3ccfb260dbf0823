"""Small videos of every kind that decoders get wrong, whose pictures say their own numbers: truth without a decoder.

Each is made by a real encoder and muxer. `make_traps` gives them and, for each, the number on screen at any time.
"""

import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image

BITS = 6
WIDTH, HEIGHT = 96, 64
FPS = 10
FRAMES = 48
GOP = 12

Shown = Callable[[float], int]


@dataclass(frozen=True)
class Trap:
    """A made file: `number_at(t)` is the number on screen t seconds after the first shown frame."""

    path: Path
    what: str
    number_at: Shown


def picture(number: int, width: int = WIDTH, height: int = HEIGHT) -> np.ndarray:
    """(H, W, 3) uint8: `number` as black and white columns, low bits on the left, under a blue bar: the top."""
    columns = np.repeat([235 * (number >> bit & 1) + 10 for bit in range(BITS)], width // BITS)
    image = np.broadcast_to(columns.astype(np.uint8)[None, :, None], (height, columns.size, 3)).copy()
    image[: height // 4] = (0, 0, 200)
    return image


def number_in(image: np.ndarray) -> int | None:
    """The number in a picture of any size; None when the picture is not upright."""
    height, width, _ = image.shape
    red, green, blue = image[height // 16 + 1 : height // 6, :].reshape(-1, 3).mean(0)
    if not (blue > 100 and red < 90 and green < 90):
        return None
    middles = ((np.arange(BITS) + 0.5) * width / BITS).astype(int)
    lower = image[height // 2 :]
    return sum(1 << bit for bit, x in enumerate(middles) if lower[:, x].mean() > 127)


def encode(
    path: Path,
    codec: str = "libx264",
    pix_fmt: str = "yuv420p",
    numbers: range = range(FRAMES),
    times_ms: list[int] | None = None,
    draw: Callable[[int], np.ndarray] = picture,
    options: dict[str, str] | None = None,
    container_options: dict[str, str] | None = None,
    aspect: Fraction | None = None,
    rotation: int = 0,
    mirrored: bool = False,
    offset_s: float = 0.0,
    b_frames: int = 2,
    target: Any = None,
    form: str | None = None,
) -> Path:
    """Encode the pictures of `numbers`, shown at `times_ms` or at 10 a second from `offset_s` on."""
    base = Fraction(1, 1000) if times_ms else Fraction(1, FPS)
    with av.open(target or str(path), "w", format=form, options=container_options or {}) as container:
        stream: Any = container.add_stream(codec, rate=FPS, options=options or {})
        first = draw(numbers[0])
        stream.height, stream.width = first.shape[:2]
        stream.pix_fmt = pix_fmt
        stream.codec_context.gop_size = GOP
        stream.codec_context.thread_count = 1  # encoders' threads wait for each other in busy loops
        if codec not in ("gif", "mjpeg", "png", "qtrle", "rawvideo", "wmv2", "flv", "vp8", "libvpx", "apng"):
            stream.codec_context.max_b_frames = b_frames
        stream.codec_context.time_base = stream.time_base = base
        if aspect is not None:
            stream.codec_context.sample_aspect_ratio = aspect
        if rotation or mirrored:
            stream.set_display_rotation(rotation, hflip=mirrored)
        for index, number in enumerate(numbers):
            image = draw(number)
            frame = av.VideoFrame.from_ndarray(image, format="rgba" if image.shape[2] == 4 else "rgb24")
            frame.pts, frame.time_base = (times_ms[index] if times_ms else index), base
            for packet in stream.encode(frame):
                _mux(container, packet, offset_s)
        for packet in stream.encode():
            _mux(container, packet, offset_s)
    return path


def _mux(container: Any, packet: Any, offset_s: float) -> None:
    shift = round(offset_s / packet.time_base)
    packet.pts += shift
    packet.dts += shift
    container.mux(packet)


def steady(first: int = 0, last: int = FRAMES - 1) -> Shown:
    """Ten numbers a second."""
    return lambda t: min(last, first + int(t * FPS + 1e-3))


def at_times(times_ms: list[int]) -> Shown:
    """Number i from times_ms[i] on."""
    starts = (np.array(times_ms) - times_ms[0]) / 1000
    return lambda t: max(0, int(np.searchsorted(starts, t + 1e-3, side="right")) - 1)


def _turned(rotation: int, mirrored: bool) -> Callable[[int], np.ndarray]:
    """The picture as it must be stored to be upright once turned by `rotation` and then mirrored."""

    def draw(number: int) -> np.ndarray:
        image = picture(number)
        image = image[:, ::-1] if mirrored else image
        return np.ascontiguousarray(np.rot90(image, -rotation // 90))

    return draw


def _transparent(number: int) -> np.ndarray:
    """White columns made of nothing: on white they are what they should be."""
    image = picture(number)
    alpha = np.where((image[..., :1] > 200) & (image[..., 1:2] > 200), 0, 255).astype(np.uint8)
    return np.concatenate([np.where(alpha == 0, 0, image), alpha], axis=2).astype(np.uint8)


def copy_from(source: Path, target: Path, first_packet: int, shift_to: int) -> Path:
    """Cut without encoding, as editors do: packets from `first_packet` on, its time set to frame `shift_to`."""
    with av.open(str(source)) as read, av.open(str(target), "w") as write:
        stream = write.add_stream_from_template(read.streams.video[0])
        packets = [packet for packet in read.demux(read.streams.video[0]) if packet.size][first_packet:]
        earliest = min(packet.pts for packet in packets if packet.is_keyframe)
        for packet in packets:
            move = round(shift_to / FPS / packet.time_base) - earliest
            packet.pts, packet.dts, packet.stream = packet.pts + move, packet.dts + move, stream
            write.mux(packet)
    return target


def _two_streams(path: Path) -> Path:
    """A small video first; the large one, second, is marked as the one to show."""
    with av.open(str(path), "w") as container:
        streams: list[Any] = []
        for width, height in ((48, 32), (WIDTH, HEIGHT)):
            stream: Any = container.add_stream("libx264", rate=FPS)
            stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
            stream.disposition = av.stream.Disposition.default if streams else av.stream.Disposition(0)
            streams.append(stream)
        for number in range(FRAMES):
            for stream, shown in zip(streams, (63 - number % 64, number), strict=True):
                image = picture(shown, stream.width, stream.height)
                frame = av.VideoFrame.from_ndarray(image, format="rgb24")
                frame.pts, frame.time_base = number, Fraction(1, FPS)
                container.mux(stream.encode(frame))
        for stream in streams:
            container.mux(stream.encode())
    return path


def _with_cover(path: Path) -> Path:
    """An mp4 whose first stream is a cover picture."""
    jpeg = io.BytesIO()
    Image.fromarray(picture(63)).save(jpeg, "JPEG")
    with av.open(str(path), "w") as container:
        cover: Any = container.add_stream("mjpeg", rate=1)
        cover.width, cover.height, cover.pix_fmt = WIDTH, HEIGHT, "yuvj420p"
        cover.disposition = av.stream.Disposition.attached_pic
        stream: Any = container.add_stream("libx264", rate=FPS)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        packet = av.Packet(jpeg.getvalue())
        packet.stream, packet.pts, packet.dts, packet.time_base = cover, 0, 0, Fraction(1, FPS)
        container.mux(packet)
        for number in range(FRAMES):
            frame = av.VideoFrame.from_ndarray(picture(number), format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, FPS)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


class _Pipe(io.RawIOBase):
    """A file that cannot seek, as a live recording is written."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._file = path.open("wb")

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return False

    def write(self, data: Any) -> int:
        return self._file.write(data)

    def close(self) -> None:
        self._file.close()
        super().close()


def _live(path: Path) -> Path:
    pipe = _Pipe(path)
    encode(path, "libvpx-vp9", target=pipe, form="webm", container_options={"live": "1"}, b_frames=0)
    pipe.close()
    return path


def _images(folder: Path) -> Iterator[Trap]:
    exif = Image.Exif()
    exif[0x0112] = 6
    stored = Image.fromarray(np.ascontiguousarray(np.rot90(picture(9), 1)))
    stored.save(folder / "exif.jpg", exif=exif, quality=95)
    yield Trap(folder / "exif.jpg", "JPEG turned by its EXIF", lambda t: 9)
    Image.fromarray(_transparent(21)).save(folder / "alpha.png")
    yield Trap(folder / "alpha.png", "PNG with transparency", lambda t: 21)
    frames = [Image.fromarray(picture(number)) for number in range(8)]
    frames[0].save(folder / "animated.webp", save_all=True, append_images=frames[1:], lossless=True)
    yield Trap(folder / "animated.webp", "animated WebP: its first picture", lambda t: 0)


def make_traps(folder: Path) -> Iterator[Trap]:
    """Make the files in `folder`, one after the other."""
    folder.mkdir(parents=True, exist_ok=True)
    plain = encode(folder / "plain.mp4")
    yield Trap(plain, "plain mp4, B-frames", steady())
    simple = [
        ("fragmented.mp4", "fragmented mp4", {"container_options": {"movflags": "frag_keyframe+empty_moov"}}),
        ("plain.mkv", "Matroska", {}),
        ("plain.mov", "QuickTime", {}),
        ("plain.flv", "FLV", {}),
        ("h264.avi", "h264 in AVI", {}),
        ("h264.ts", "MPEG-TS", {}),
        (
            "hevc.mp4",
            "HEVC, open groups of pictures",
            {"codec": "libx265", "options": {"x265-params": "log-level=none"}},
        ),
        (
            "open_gop.mp4",
            "h264, open groups of pictures",
            {"options": {"x264-params": "open-gop=1:bframes=3:b-adapt=0"}},
        ),
        ("vp8.webm", "VP8", {"codec": "libvpx"}),
        ("vp9.webm", "VP9", {"codec": "libvpx-vp9", "b_frames": 0}),
        ("av1.mp4", "AV1", {"codec": "libsvtav1", "b_frames": 0}),
        ("mpeg4.avi", "MPEG-4 with B-frames in AVI", {"codec": "mpeg4"}),
        ("mpeg4.mp4", "MPEG-4 with B-frames in mp4", {"codec": "mpeg4"}),
        ("mpeg2.mpg", "MPEG-2 program stream", {"codec": "mpeg2video", "options": {"b": "4M"}}),
        ("mjpeg.avi", "MJPEG", {"codec": "mjpeg", "pix_fmt": "yuvj420p"}),
        ("wmv.wmv", "WMV", {"codec": "wmv2", "options": {"b": "2M"}}),
        ("ten_bit.mp4", "10 bit", {"pix_fmt": "yuv420p10le"}),
        ("422.mp4", "4:2:2", {"pix_fmt": "yuv422p"}),
        ("444.mp4", "4:4:4", {"pix_fmt": "yuv444p"}),
        ("full_range.mp4", "full range", {"pix_fmt": "yuvj420p"}),
        ("ffv1.mkv", "FFV1", {"codec": "ffv1", "b_frames": 0}),
        ("offset.mkv", "starts at 5 s", {"offset_s": 5.0}),
        ("offset.mp4", "starts at 5 s, by an edit list", {"offset_s": 5.0}),
        ("alpha.mov", "QuickTime RLE with transparency", {"codec": "qtrle", "pix_fmt": "argb", "draw": _transparent}),
        ("alpha.webm", "VP9 with transparency (its colors alone)", {"codec": "libvpx-vp9", "b_frames": 0}),
        ("apng.mov", "PNG in QuickTime with transparency", {"codec": "png", "pix_fmt": "rgba", "draw": _transparent}),
        ("animated.gif", "GIF", {"codec": "gif", "pix_fmt": "rgb8"}),
        ("all_key.mp4", "every frame a key frame", {"options": {"g": "1"}}),
        ("one_key.mp4", "one key frame", {"options": {"g": "999", "sc_threshold": "0"}}),
        ("narrow_pixels.mp4", "pixels 1:2", {"aspect": Fraction(1, 2)}),
        ("wide_pixels.mkv", "pixels 2:1", {"aspect": Fraction(2, 1)}),
    ]
    for name, what, named in simple:
        yield Trap(encode(folder / name, **named), what, steady())  # type: ignore[arg-type]
    for rotation in (0, 90, 180, 270):
        for mirrored in (False, True):
            if rotation or mirrored:
                name = f"turned_{rotation}{'_mirrored' if mirrored else ''}.mp4"
                draw = _turned(rotation, mirrored)
                path = encode(folder / name, draw=draw, rotation=rotation, mirrored=mirrored)
                yield Trap(path, f"display matrix {rotation}{', mirrored' if mirrored else ''}", steady())
    times = np.cumsum([0] + [40 + 37 * (i * i % 7) for i in range(FRAMES - 1)]).tolist()
    for name in ("variable.mkv", "variable.mp4"):
        yield Trap(encode(folder / name, times_ms=times, b_frames=0), "variable rate", at_times(times))
    cut = copy_from(plain, folder / "cut.mp4", 0, -5)
    yield Trap(cut, "cut without encoding: an edit list hides 5 frames", steady(5))
    late = copy_from(folder / "open_gop.mp4", folder / "open_cut.mp4", GOP, 0)
    yield Trap(late, "cut inside open groups of pictures", _first_decodable(late))
    yield Trap(encode(folder / "single.mp4", numbers=range(1)), "a single frame", lambda t: 0)
    yield Trap(_two_streams(folder / "two_streams.mp4"), "two video streams: the one marked as default", steady())
    yield Trap(_with_cover(folder / "cover.mp4"), "a cover before the video", steady())
    yield Trap(_live(folder / "live.webm"), "live recording without a duration", steady())
    yield from _images(folder)


def _first_decodable(path: Path) -> Shown:
    """Frames that lean on a group that was cut away cannot be shown; the first that can says where the file starts."""
    with av.open(str(path)) as container:
        first = next(iter(container.decode(video=0)))
    return steady(number_in(first.to_ndarray(format="rgb24")) or 0)
