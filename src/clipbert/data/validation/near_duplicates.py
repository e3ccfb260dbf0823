"""Near-duplicates in different splits, found by their perceptual hashes without comparing every pair."""

from collections.abc import Iterator

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from clipbert.data.perceptual_hash import BITS, BLANK, COMPARED, PICTURES, stretch

MAX_INDEXED_DISTANCE = 7
"""Bits; up to here the index misses no pair: of the four quarters of a hash one then differs by at most one bit."""

# These hardly change with encoding, size or small cuts; chance matches usually differ in one of them.
BRIGHTNESS_LEVELS = 24.0
MOTION_LEVELS, MOTION_SHARE = 2.0, 0.5
DURATION_SHARE = 0.15

QUARTERS, QUARTER_BITS = 4, 16
PAIRS_AT_ONCE = 2_000_000
COLUMNS = ["media", "split", "near_media", "near_split", "distance"]
OTHERS = (("test", ("train", "val")), ("val", ("train",)))


def near_duplicates(videos: pd.DataFrame, max_distance: float) -> pd.DataFrame:
    """Return pairs of near-duplicates in different splits: media, split, near_media, near_split, distance (bits).

    The first media of a pair is in test or, if the other one is in train, in val. The closest pair comes first. Media
    without hashes, or with mostly blank pictures, are in no pair.

    Args:
        videos: rows of the videos table; those without a split are left out.
        max_distance: mean differing bits of 64, at most MAX_INDEXED_DISTANCE.
    """
    if max_distance > MAX_INDEXED_DISTANCE:
        raise ValueError(f"max_distance {max_distance} is above {MAX_INDEXED_DISTANCE}, what the index finds surely")
    looks = [stretch([] if value is None else value) for value in videos["looks"]]
    hashes = np.stack(looks) if looks else np.empty((0, PICTURES), np.uint64)
    known = np.flatnonzero((hashes != BLANK).sum(axis=1) >= COMPARED)
    split = videos["split"].to_numpy(object)
    found: list[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]] = []
    for name, others in OTHERS:
        left = known[split[known] == name]
        right = known[np.isin(split[known].astype(str), others)]
        if len(left) and len(right):
            found += _pairs(hashes, videos, left, right, max_distance)
    if not found:
        return pd.DataFrame({name: pd.Series(dtype=float if name == "distance" else object) for name in COLUMNS})
    first, second, distance = (np.concatenate(part) for part in zip(*found, strict=True))
    media = videos["media"].to_numpy(object)
    pairs = pd.DataFrame(
        dict(zip(COLUMNS, (media[first], split[first], media[second], split[second], distance), strict=True))
    )
    return pairs.drop_duplicates(["media", "near_media"]).sort_values(["distance", *COLUMNS[:4]], ignore_index=True)


def _pairs(
    hashes: NDArray[np.uint64],
    videos: pd.DataFrame,
    left: NDArray[np.int64],
    right: NDArray[np.int64],
    max_distance: float,
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]]:
    """Yield (row, row, distance) of the pairs within the distance; a pair may come several times."""
    queries, stored = hashes[left], hashes[right].copy()
    stored[stored == BLANK] = ~np.uint64(BLANK)  # make two blank pictures differ in every bit
    measures = {name: videos[name].to_numpy(float, na_value=np.nan) for name in ("brightness", "motion", "duration_s")}
    for one, two in _candidates(queries, stored):
        alike = _alike(measures, left[one], right[two])
        one, two = one[alike], two[alike]
        differing = np.bitwise_count(queries[one] ^ stored[two])
        distance = np.partition(differing, COMPARED - 1, axis=1)[:, :COMPARED].mean(axis=1)
        near = distance <= max_distance
        yield left[one[near]], right[two[near]], distance[near]


def _candidates(
    queries: NDArray[np.uint64], stored: NDArray[np.uint64]
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Yield the pairs whose pictures at the same moment have a quarter of their hash in common, except for one bit."""
    flips = np.concatenate([[0], 1 << np.arange(QUARTER_BITS)]).astype(np.uint16)
    for moment in range(PICTURES):
        for quarter in range(QUARTERS):
            shift = np.uint64(quarter * BITS // QUARTERS)
            keys = (stored[:, moment] >> shift).astype(np.uint16)
            order = np.argsort(keys, kind="stable")
            starts = np.searchsorted(keys[order], np.arange(2**QUARTER_BITS + 1))
            asked = ((queries[:, moment] >> shift).astype(np.uint16)[:, None] ^ flips).ravel().astype(np.int64)
            counts = starts[asked + 1] - starts[asked]
            ends = np.cumsum(counts)
            begin = 0
            while begin < len(asked):
                done = ends[begin - 1] if begin else 0
                stop = max(begin + 1, int(np.searchsorted(ends, done + PAIRS_AT_ONCE, side="right")))
                many = counts[begin:stop]
                within = np.arange(many.sum()) - np.repeat(np.cumsum(many) - many, many)
                place = np.repeat(starts[asked[begin:stop]], many) + within
                yield np.repeat(np.arange(begin, stop) // len(flips), many), order[place]
                begin = stop


def _alike(
    measures: dict[str, NDArray[np.float64]], one: NDArray[np.int64], two: NDArray[np.int64]
) -> NDArray[np.bool_]:
    """Return whether brightness, motion and duration are compatible with copies; unknown values exclude nothing."""

    def apart(name: str, levels: float, share: float) -> NDArray[np.bool_]:
        first, second = measures[name][one], measures[name][two]
        return np.abs(first - second) > np.maximum(levels, share * np.maximum(first, second))

    return ~(
        apart("brightness", BRIGHTNESS_LEVELS, 0)
        | apart("motion", MOTION_LEVELS, MOTION_SHARE)
        | apart("duration_s", 0.0, DURATION_SHARE)
    )
