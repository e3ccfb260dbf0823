"""Perceptual hashes of a video, 64 bits per picture, that hardly change with encoding, size or frame rate.

A hash holds the signs of the picture's 64 lowest spatial frequencies (a discrete cosine transform without its constant
term), computed without black bars. Only NumPy is imported, because short-lived workers import this module.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

PICTURES = 8  # of a video at most
COMPARED = 5  # of them, the closest, count in a distance
BITS = 64
BLANK = 0
"""The hash of a picture without detail: black, white, any one colour. It says nothing, and no other picture has it."""

SIDE = 32  # samples of the transform along each side
BLANK_DETAIL = 2.5  # grey levels; the standard deviation below which a picture is blank
FAINT = 0.1  # grey levels; a weaker frequency counts as absent, so that noise does not choose its bit
BAR_LUMA = 28  # at most this bright in all pictures: black bars, in full or limited range
MAX_BAR = 0.4  # of the width or height, on one side


@dataclass(frozen=True)
class VisualSignature:
    """Visual signature of one video or image: three columns of the videos table."""

    hashes: list[int]  # one per picture, 64 bits as a signed integer; BLANK for a picture without detail
    brightness: float  # mean luma without black bars, 0 black to 255 white
    motion: float | None  # mean absolute difference of neighbouring pictures, 0 to 255; None for a single picture


def visual_signature(pictures: NDArray[np.uint8]) -> VisualSignature:
    """Return the visual signature of pictures in time order.

    Args:
        pictures: (N, H, W) uint8 grey, N >= 1, of any size; an area average of the video's frames at (i + 1/2) / N of
            its duration.

    Raises:
        ValueError: another shape or type, or no picture.
    """
    if pictures.ndim != 3 or pictures.dtype != np.uint8 or 0 in pictures.shape:
        raise ValueError(f"expected (N, H, W) uint8 grey pictures, found {pictures.shape} {pictures.dtype}")
    pictures = _without_bars(pictures)
    hashes = [_hash(picture) for picture in pictures]
    levels = pictures.astype(np.float32)
    motion = float(np.abs(np.diff(levels, axis=0)).mean(dtype=np.float64)) if len(pictures) > 1 else None
    return VisualSignature(
        hashes, round(float(levels.mean(dtype=np.float64)), 3), None if motion is None else round(motion, 3)
    )


def distance(first: Sequence[int], second: Sequence[int]) -> float:
    """Return the distance of two signatures: the mean number of differing bits, 0 to 64, over the COMPARED closest
    pictures.

    Not over all, because a trimmed copy shows other moments where it cuts to another scene. A blank picture matches
    none.
    """
    left, right = stretch(first), stretch(second)
    differing = np.bitwise_count(left ^ right).astype(np.int64)
    differing[(left == BLANK) | (right == BLANK)] = BITS
    return float(np.sort(differing)[:COMPARED].mean())


def stretch(hashes: Sequence[int]) -> NDArray[np.uint64]:
    """Return the hashes of N pictures at PICTURES evenly spaced moments, (PICTURES,) uint64; blank without pictures."""
    if not len(hashes):
        return np.full(PICTURES, BLANK, np.uint64)
    at = (2 * np.arange(PICTURES) + 1) * len(hashes) // (2 * PICTURES)
    return np.asarray(hashes, np.int64).view(np.uint64)[at]


def _without_bars(pictures: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the pictures without the rows and columns at their edges that are black in all of them."""
    top, bottom = _bars(pictures.max(axis=(0, 2)))
    left, right = _bars(pictures.max(axis=(0, 1)))
    return pictures[:, top:bottom, left:right]


def _bars(brightest: NDArray[np.uint8]) -> tuple[int, int]:
    """Return where the lines that are not black begin and end; the whole range if too little would be left."""
    size = len(brightest)
    bright = np.flatnonzero(brightest > BAR_LUMA)
    if not len(bright) or max(bright[0], size - 1 - bright[-1]) > MAX_BAR * size:
        return 0, size
    return int(bright[0]), int(bright[-1]) + 1


def _hash(picture: NDArray[np.uint8]) -> int:
    height, width = picture.shape
    rows, columns = _transform(height), _transform(width)
    found = (rows @ picture.astype(np.float64) @ columns.T)[_lowest()]
    if np.sqrt(np.square(found).sum()) < BLANK_DETAIL:
        return BLANK
    bits = np.packbits(found > FAINT)
    return int(bits.view(">i8")[0])


@functools.cache
def _transform(size: int) -> NDArray[np.float64]:
    """Return the lowest frequencies of `size` samples averaged to SIDE, normalized so that a sum of squares is a
    variance."""
    edges = np.linspace(0, size, SIDE + 1)
    starts = np.arange(size)
    overlap = np.minimum(edges[1:, None], starts + 1) - np.maximum(edges[:-1, None], starts)
    averages = np.clip(overlap, 0, None) / (size / SIDE)
    order, sample = np.arange(BITS)[:, None], np.arange(SIDE)
    waves = np.cos(np.pi * order * (2 * sample + 1) / (2 * SIDE)) * np.where(order == 0, 1, np.sqrt(2)) / SIDE
    return waves[: _lowest()[0].max() + 1] @ averages


@functools.cache
def _lowest() -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return row and column frequencies of the BITS lowest frequencies, without the constant one."""
    row, column = np.mgrid[:SIDE, :SIDE]
    order = np.lexsort((row.ravel(), (row**2 + column**2).ravel()))[1 : BITS + 1]
    return row.ravel()[order], column.ravel()[order]
