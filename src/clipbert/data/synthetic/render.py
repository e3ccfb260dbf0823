"""Rendering of a scene as yuv420p frames in integer arithmetic, so that every CPU makes the same pixels."""

import functools
import random

import numpy as np
from numpy.typing import NDArray

from clipbert.data.synthetic.scene import SIDE, SIZES, Scene

RGB = {
    "red": (222, 22, 28),
    "yellow": (252, 232, 20),
    "green": (16, 150, 40),
    "cyan": (50, 225, 240),
    "blue": (28, 48, 220),
    "pink": (255, 90, 200),
    "white": (252, 252, 252),
    "black": (6, 6, 6),
}
TONE_RGB = {"gray": (128, 128, 128), "brown": (148, 110, 78), "olive": (112, 132, 80), "slate": (92, 112, 146)}
SHADES = 9  # from the darkest to the lightest of a background
CONTRAST = 5  # levels between neighbouring shades
MARGIN = 40  # the background drifts at most this far, a pixel a frame
CANVAS = SIDE + 2 * MARGIN

CORNERS = {  # in thousandths of the size, clockwise from the top
    "triangle": ((500, 40), (980, 920), (20, 920)),
    "star": (
        *((500, 20), (618, 345), (976, 345), (690, 560), (795, 900)),
        *((500, 700), (205, 900), (310, 560), (24, 345), (382, 345)),
    ),
}
SUPERSAMPLES = 4


def yuv(rgb: tuple[int, int, int]) -> tuple[int, int, int]:
    """Return a color in 8-bit limited-range BT.601."""
    r, g, b = rgb
    return (
        ((66 * r + 129 * g + 25 * b + 128) >> 8) + 16,
        ((-38 * r - 74 * g + 112 * b + 128) >> 8) + 128,
        ((112 * r - 94 * g - 18 * b + 128) >> 8) + 128,
    )


def render(scene: Scene) -> NDArray[np.uint8]:
    """Return all frames of a scene, (frames, SIDE * 3 / 2, SIDE) uint8: Y plane over U and V plane, packed."""
    background = [plane.astype(np.int32) for plane in _background(scene)]
    half = SIDE // 2
    video = np.empty((scene.frames, SIDE * 3 // 2, SIDE), np.uint8)
    for frame in range(scene.frames):
        y, u, v = _frame(scene, background, frame)
        video[frame, :SIDE] = y
        chroma = video[frame, SIDE:].reshape(2, half, half)
        chroma[0], chroma[1] = u, v
    return video


def render_frame(scene: Scene, frame: int) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.int32]]:
    """Return one frame of a scene: its Y plane (SIDE, SIDE), its U and its V plane (SIDE / 2, SIDE / 2)."""
    return _frame(scene, [plane.astype(np.int32) for plane in _background(scene)], frame)


def _frame(
    scene: Scene, background: list[NDArray[np.int32]], frame: int
) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.int32]]:
    top, left = (MARGIN + scene.drift[axis] * frame for axis in (1, 0))
    window = np.s_[top : top + SIDE, left : left + SIDE]
    window2 = np.s_[top : top + SIDE : 2, left : left + SIDE : 2]
    y, u, v = background[0][window].copy(), background[1][window2].copy(), background[2][window2].copy()
    for thing in scene.things:
        if thing.first <= frame < thing.last:
            mask = coverage(thing.shape, thing.size)
            _paint((y, u, v), mask, thing.center(frame), yuv(RGB[thing.color_at(frame)]))
    return y, u, v


def _paint(
    planes: tuple[NDArray[np.int32], ...], mask: NDArray[np.int32], center: tuple[int, int], color: tuple[int, int, int]
) -> None:
    """Blend a color into the planes where the mask (0 to 16) covers them; what lies outside the picture is cut."""
    side = mask.shape[0]
    left, top = center[0] - side // 2, center[1] - side // 2
    x0, x1 = max(left, 0), min(left + side, SIDE)
    y0, y1 = max(top, 0), min(top + side, SIDE)
    if x0 >= x1 or y0 >= y1:
        return
    even = np.s_[y0 & ~1 : (y1 + 1) & ~1, x0 & ~1 : (x1 + 1) & ~1]
    weight = np.zeros((even[0].stop - even[0].start, even[1].stop - even[1].start), np.int32)
    weight[y0 - even[0].start : y1 - even[0].start, x0 - even[1].start : x1 - even[1].start] = mask[
        y0 - top : y1 - top, x0 - left : x1 - left
    ]
    planes[0][even] += ((color[0] - planes[0][even]) * weight + 8) >> 4
    weight = weight[::2, ::2] + weight[1::2, ::2] + weight[::2, 1::2] + weight[1::2, 1::2]
    small = np.s_[even[0].start // 2 : even[0].stop // 2, even[1].start // 2 : even[1].stop // 2]
    for plane, value in zip(planes[1:], color[1:], strict=True):
        plane[small] += ((value - plane[small]) * weight + 32) >> 6


@functools.cache
def coverage(shape: str, size: str) -> NDArray[np.int32]:
    """Return how much of each pixel a shape covers, 0 to 16, (pixels, pixels)."""
    pixels = SIZES[size]
    side = pixels * SUPERSAMPLES
    grid = 2 * np.arange(side, dtype=np.int64) + 1 - side  # odd numbers around 0; the edge is at +-side
    x, y = grid[None, :], grid[:, None]
    radius2 = x * x + y * y
    if shape == "circle":
        inside = radius2 <= side * side
    elif shape == "ring":
        inside = (radius2 <= side * side) & (25 * radius2 >= 9 * side * side)
    elif shape == "square":
        inside = np.maximum(abs(x), abs(y)) * 100 <= 90 * side
    elif shape == "cross":
        inside = np.minimum(abs(x), abs(y)) * 100 <= 30 * side
    else:
        inside = _polygon(CORNERS[shape], side)
    blocks = inside.reshape(pixels, SUPERSAMPLES, pixels, SUPERSAMPLES)
    return blocks.sum(axis=(1, 3), dtype=np.int32)


def _polygon(corners: tuple[tuple[int, int], ...], side: int) -> NDArray[np.bool_]:
    """Return which of side x side sample points lie inside a polygon in thousandths (even-odd rule)."""
    points = (2 * np.arange(side, dtype=np.int64) + 1) * 500  # thousandths of a sample
    x, y = points[None, :], points[:, None]
    inside = np.zeros((side, side), bool)
    for (ax, ay), (bx, by) in zip(corners, corners[1:] + corners[:1], strict=True):
        ax, ay, bx, by = (value * side for value in (ax, ay, bx, by))
        if ay == by:
            continue
        crosses = (y >= min(ay, by)) & (y < max(ay, by))
        run, rise = (bx - ax, by - ay) if by > ay else (ax - bx, ay - by)
        inside ^= crosses & ((x - ax) * rise < (y - ay) * run)
    return inside


def _background(scene: Scene) -> list[NDArray[np.uint8]]:
    """Return the Y, U, V planes of a canvas larger than the picture; U and V box-filtered but not yet subsampled."""
    shade = _texture(scene)
    offset = (np.arange(SHADES) - SHADES // 2) * CONTRAST
    table = np.array([yuv(_shaded(TONE_RGB[scene.tone], int(step))) for step in offset], np.uint8)
    planes = [table[:, channel][shade] for channel in range(3)]
    for channel in (1, 2):
        wide = np.pad(planes[channel], ((0, 1), (0, 1)), mode="edge").astype(np.int32)
        planes[channel] = ((wide[:-1, :-1] + wide[1:, :-1] + wide[:-1, 1:] + wide[1:, 1:] + 2) >> 2).astype(np.uint8)
    return planes


def _shaded(rgb: tuple[int, int, int], step: int) -> tuple[int, int, int]:
    r, g, b = (value + step for value in rgb)
    return r, g, b


def _texture(scene: Scene) -> NDArray[np.int64]:
    """Return the shade, 0 to SHADES - 1, of each pixel of the canvas, (CANVAS, CANVAS)."""
    line = np.arange(CANVAS, dtype=np.int64)
    x, y = line[None, :], line[:, None]
    along = {"x": x + 0 * y, "y": y + 0 * x, "diagonal": (x + y) * 2 // 3}[scene.angle]
    dark, light = np.int64(0), np.int64(SHADES - 1)
    if scene.pattern == "striped":
        return np.where(along // 9 % 2 == 0, dark, light)
    if scene.pattern == "checkered":
        return np.where((x // 14 + y // 14) % 2 == 0, dark, light)
    if scene.pattern == "dotted":
        dx, dy = 2 * (x % 16) - 15, 2 * (y % 16) - 15
        return np.where(dx * dx + dy * dy <= 100, light, dark)
    if scene.pattern == "shaded":
        return abs(along * 2 * SHADES // 150 % (2 * SHADES) - SHADES) * (SHADES - 1) // SHADES
    if scene.pattern == "speckled":
        cells = CANVAS // 4 + 1
        noise = random.Random(scene.grain).randbytes(cells * cells)
        grain = np.frombuffer(noise, np.uint8).reshape(cells, cells).astype(np.int64) * SHADES >> 8
        return grain.repeat(4, axis=0).repeat(4, axis=1)[:CANVAS, :CANVAS]
    return np.full((CANVAS, CANVAS), SHADES // 2, np.int64)
