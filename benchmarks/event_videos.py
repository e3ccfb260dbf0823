"""Half-hour videos in which something small happens once for two seconds, by real encoders.

A video is thirty minutes drawn from four that are encoded once, joined packet by packet, and one minute that is encoded
with the event in it: a magenta ball, of a gray near its surroundings', that comes in from one side, crosses and leaves.
Each minute is a stream of its own, as recorders cut them, with or without an event; so joints tell nothing.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from PIL import Image

WIDTH, HEIGHT, RATE = 320, 180, Fraction(25, 2)
MINUTE = int(60 * RATE)
EVENT = int(2 * RATE)
KINDS = ("static", "talking", "montage", "pan")
ENCODINGS: dict[str, tuple[str, dict[str, str]]] = {
    "x264": ("libx264", {}),
    "x264 fixed GOP": ("libx264", {"preset": "veryfast", "g": "250", "keyint_min": "250", "sc_threshold": "0"}),
    "x264 CBR": (
        "libx264",
        {"preset": "veryfast", "b": "120k", "maxrate": "120k", "bufsize": "120k", "x264-params": "nal-hrd=cbr"},
    ),
    "x265": ("libx265", {"preset": "superfast", "x265-params": "log-level=none:pools=none:frame-threads=1"}),
}


@dataclass(frozen=True)
class Coded:
    """One encoded packet, its times counted in pictures of its own minute."""

    data: bytes
    pts: int
    dts: int
    key: bool


@dataclass(frozen=True)
class Event:
    """What happens in one minute: the picture it starts at, how large and where."""

    start: int
    radius: int
    height: float
    rightwards: bool

    @staticmethod
    def drawn(generator: np.random.Generator) -> "Event":
        """A ball of 10 to 15 % of the picture's height, anywhere in the minute."""
        start = int(generator.integers(0, MINUTE - EVENT + 1))
        radius = round(HEIGHT * generator.uniform(0.10, 0.15) / 2)
        return Event(start, radius, float(generator.uniform(0.15, 0.85)), bool(generator.integers(2)))

    def paint(self, picture: np.ndarray, index: int) -> None:
        """Draw the ball into picture `index` of the minute, planes (3/2 H, W) of yuv420p."""
        if not self.start <= index < self.start + EVENT:
            return
        # one fifth of the width, and back
        way = np.sin(np.pi * (index - self.start + 0.5) / EVENT)
        x = -self.radius + way * (WIDTH / 5 + self.radius)
        x = x if self.rightwards else WIDTH - x
        rows, columns = np.mgrid[0:HEIGHT, 0:WIDTH]
        ball = (rows - self.height * HEIGHT) ** 2 + (columns - x) ** 2 <= self.radius**2
        luma, chroma = picture[:HEIGHT], picture[HEIGHT:].reshape(2, HEIGHT // 2, WIDTH // 2)
        if ball.any():
            near = luma[ball].mean()
            luma[ball] = near + 30 if near < 128 else near - 30
            chroma[:, ball[::2, ::2]] = 200


def is_shown(image: np.ndarray) -> bool:
    """Whether the ball is in a decoded picture (H, W, 3) RGB: at least eight clearly magenta pixels."""
    red, green, blue = (image[..., channel].astype(int) for channel in range(3))
    return int(((red - green > 50) & (blue - green > 50)).sum()) >= 8


class Scenery:
    """Pictures of one kind of video, the same for the same seed."""

    def __init__(self, kind: str, seed: int):
        self.kind = kind
        self.generator = np.random.default_rng([KINDS.index(kind), seed])
        self.noise = np.rint(self.generator.normal(0, 1, (2 * HEIGHT, 2 * WIDTH)) * 16).astype(np.int16)
        # a hundred seeds share one place
        place = np.random.default_rng([KINDS.index(kind), seed // 100])
        self.background = texture(place, 3 * WIDTH if kind == "pan" else WIDTH)
        self.beats = self.generator.uniform(0.2, 1.0, 16)

    def minute(self, event: Event | None = None) -> Iterator[np.ndarray]:
        """750 pictures, planes (270, 320) of yuv420p; they start and end alike, except in a montage."""
        shots = list(self._shots()) if self.kind == "montage" else []
        for index in range(MINUTE):
            at = index / MINUTE
            if self.kind == "static":
                luma, grain = self.background, 4.0
            elif self.kind == "talking":
                luma, grain = self._head(self.background, at, index), 2.0
            elif self.kind == "pan":
                luma, grain = self._window(self.background, (1 - np.cos(2 * np.pi * at)) * WIDTH), 1.5
            else:
                luma, grain = self._shot(shots, index), 2.0
            picture = np.full((HEIGHT * 3 // 2, WIDTH), 128, np.uint8)
            y, x = (7919 * (index + 1)) % HEIGHT, (104729 * (index + 1)) % WIDTH
            picture[:HEIGHT] = np.clip(luma + self.noise[y : y + HEIGHT, x : x + WIDTH] * grain / 16, 0, 255)
            if event is not None:
                event.paint(picture, index)
            yield picture

    def _window(self, wide: np.ndarray, x: float) -> np.ndarray:
        left = int(min(x, wide.shape[1] - WIDTH - 1))
        part = x - left
        return wide[:, left : left + WIDTH] * (1 - part) + wide[:, left + 1 : left + WIDTH + 1] * part

    def _head(self, background: np.ndarray, at: float, index: int) -> np.ndarray:
        """A head that sways, at times more than at others, and a mouth that opens; at rest at the minute's ends."""
        beat = at * len(self.beats)
        force = self.beats[int(beat)] * np.sin(np.pi * (beat % 1))
        x = WIDTH / 2 + 14 * force * np.sin(index / 3.1)
        y = HEIGHT / 2 + 6 * force * np.sin(index / 2.3)
        rows, columns = np.mgrid[0:HEIGHT, 0:WIDTH]
        luma = background.copy()
        luma[((rows - y) / 45) ** 2 + ((columns - x) / 32) ** 2 <= 1] = 170
        luma[((rows - y - 20) / (2 + 6 * force * abs(np.sin(index / 1.7)))) ** 2 + ((columns - x) / 12) ** 2 <= 1] = 60
        for side in (-12, 12):
            luma[(rows - y + 12) ** 2 + (columns - x - side) ** 2 <= 9] = 40
        return luma

    def _shots(self) -> Iterator[tuple[int, np.ndarray, str]]:
        """(first picture, scene, motion) of shots of 4 to 12 seconds that fill the minute."""
        start = 0
        while start < MINUTE:
            motion = ("still", "pan", "head")[self.generator.integers(3)]
            yield start, texture(self.generator, 2 * WIDTH), motion
            start += int(RATE * self.generator.uniform(4, 12))

    def _shot(self, shots: list[tuple[int, np.ndarray, str]], index: int) -> np.ndarray:
        start, scene, motion = next(shot for shot in reversed(shots) if shot[0] <= index)
        if motion == "pan":
            return self._window(scene, 1.2 * (index - start))
        still = scene[:, :WIDTH]
        return self._head(still, index / MINUTE, index) if motion == "head" else still


def texture(generator: np.random.Generator, width: int) -> np.ndarray:
    """A scene (HEIGHT, width) float: a soft landscape with hard-edged things in it."""
    soft = generator.integers(60, 190, (6, max(6, width // 40))).astype(np.uint8)
    scene = np.asarray(Image.fromarray(soft).resize((width, HEIGHT), Image.Resampling.BICUBIC)).astype(np.float64)
    for _ in range(width // 20):
        y, x = generator.integers(0, HEIGHT), generator.integers(0, width)
        h, w = generator.integers(6, 40, 2)
        scene[y : y + h, x : x + w] += generator.uniform(-50, 50)
    return np.clip(scene, 16, 235)


def encoder(encoding: str) -> "av.CodecContext":
    """A new encoder, one thread."""
    codec, options = ENCODINGS[encoding]
    context = av.CodecContext.create(codec, "w")
    context.width, context.height, context.pix_fmt = WIDTH, HEIGHT, "yuv420p"
    context.time_base, context.framerate = 1 / RATE, RATE
    context.thread_count = 1
    context.options = options
    return context


def encode_minute(scenery: Scenery, encodings: list[str], event: Event | None = None) -> dict[str, list[Coded]]:
    """One minute in several encodings."""
    encoders = {name: encoder(name) for name in encodings}
    coded: dict[str, list[Coded]] = {name: [] for name in encodings}

    def take(name: str, frame: "av.VideoFrame | None") -> None:
        for packet in encoders[name].encode(frame):
            assert packet.pts is not None
            assert packet.dts is not None
            coded[name].append(Coded(bytes(packet), packet.pts, packet.dts, packet.is_keyframe))

    for index, picture in enumerate(scenery.minute(event)):
        for name in encodings:
            frame = av.VideoFrame.from_ndarray(picture, format="yuv420p")
            frame.pts = index
            take(name, frame)
    for name in encodings:
        take(name, None)
    return coded


def join(path: Path, encoding: str, minutes: list[list[Coded]]) -> None:
    """Write minutes one after the other into one file."""
    codec, options = ENCODINGS[encoding]
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=RATE, options=options)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        stream.codec_context.thread_count = 1
        for minute, packets in enumerate(minutes):
            for coded in packets:
                packet = av.Packet(coded.data)
                packet.stream, packet.time_base = stream, 1 / RATE
                packet.pts, packet.dts = coded.pts + minute * MINUTE, coded.dts + minute * MINUTE
                packet.duration, packet.is_keyframe = 1, coded.key
                container.mux(packet)
