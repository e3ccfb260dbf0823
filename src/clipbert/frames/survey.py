"""A look at a video through the wrong end of the telescope: 24 x 43 cells of grey, two a second, of a part of it.

Only whole groups of pictures (a key frame and what leans on it) are decoded, without the pictures that no other needs
and without the smoothing of block edges; of the other groups the key frame. Colours are not converted and pictures not
scaled: some of the stored grey values are averaged. Memory is bounded whatever the duration.
"""

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np

ROWS, COLUMNS = 24, 43
SAMPLES_IN_CELL = 4
STEP_S = 0.5
MOST = 8192
STRONGEST = 4


def groups(levels: np.ndarray) -> np.ndarray:
    """(P,) int64: which group each packet, in decoding order, belongs to; those before the first key frame to 0."""
    return np.maximum(np.cumsum(levels == 0) - 1, 0)


def look(
    container: Any, stream: Any, chosen: np.ndarray, origin: float, duration_s: float
) -> tuple[np.ndarray, np.ndarray]:
    """Decode groups of an open file from its start.

    Args:
        chosen: (groups,) bool: decoded whole; of the others the key frame is.
        origin: seconds of the file's clock at which the first picture is shown.

    Returns:
        times: (S,) float64 ascending seconds from the first picture, at least half a second apart.
        cells: (S, 24, 43) float32 mean grey in [0, 255].

    Raises:
        ValueError: not one picture was decoded.
    """
    step = max(STEP_S, duration_s / MOST)
    context, unit = stream.codec_context, float(stream.time_base)
    context.thread_count = 1
    context.options = {"skip_loop_filter": "all"}
    context.skip_frame = "NONREF"
    times: list[float] = []
    cells: list[np.ndarray] = []
    for packets in _groups_of(container, stream, chosen, origin, step):
        start = packets[0].pts
        for frame in _decoded(context, packets):
            if frame.pts is None or frame.pts < start:
                # leans on the group before, which may not have been decoded
                continue
            time = frame.pts * unit - origin
            if not times or time >= times[-1] + step - 1e-3:
                times.append(time)
                cells.append(_cells(frame))
    if not times:
        raise ValueError("nothing could be decoded")
    return np.array(times), np.stack(cells)


def _groups_of(container: Any, stream: Any, chosen: np.ndarray, origin: float, step: float) -> Iterator[list[Any]]:
    """Packets to decode together: whole groups, and key frames alone at least `step` apart."""
    gathered: list[Any] = []
    group, due = -1, -np.inf
    for packet in container.demux(stream):
        if not packet.size or packet.is_discard:
            continue
        if packet.is_keyframe:
            if gathered:
                yield gathered
            gathered = []
            group += 1
            time = float(packet.pts * stream.time_base)
            if time >= due:
                gathered, due = [packet], time + step
        elif gathered and chosen[max(group, 0)]:
            gathered.append(packet)
    if gathered:
        yield gathered


def _decoded(context: Any, packets: list[Any]) -> Iterator[Any]:
    import av

    for packet in [*packets, None]:
        try:
            yield from context.decode(packet)
        except (av.error.InvalidDataError, av.error.EOFError):
            continue
    context.flush_buffers()


def _cells(frame: Any) -> np.ndarray:
    """Mean grey of (24, 43) cells from 16 samples each; 8 of the bits, whatever the depth."""
    plane = frame.planes[0]
    depth = frame.format.components[0].bits
    wide = depth > 8
    rows = np.frombuffer(plane, np.uint16 if wide else np.uint8).reshape(plane.height, -1)
    if not frame.format.is_planar or frame.format.is_rgb:
        rows, wide = frame.to_ndarray(format="gray"), False
    across, down = COLUMNS * SAMPLES_IN_CELL, ROWS * SAMPLES_IN_CELL
    y = ((np.arange(down) + 0.5) * frame.height / down).astype(int)
    x = ((np.arange(across) + 0.5) * frame.width / across).astype(int)
    samples = rows[y[:, None], x[None, :]].reshape(ROWS, SAMPLES_IN_CELL, COLUMNS, SAMPLES_IN_CELL)
    means = samples.mean(axis=(1, 3), dtype=np.float32)
    return means / 2 ** (depth - 8) if wide else means


def passing(cells: np.ndarray) -> np.ndarray:
    """How much of a picture is there only for a moment, (S,) float64: the strongest cells, in units of their own habit.

    A cell counts by how far its grey lies outside what it and its eight neighbours showed both before and after (one
    sample away, and three), so that a cut, a lasting change, and edges moving by a cell do not count; divided by what
    that usually is for this cell and for this picture, so that restless places and passages weigh little.
    """
    brightest, darkest = _of_neighbours(cells, np.maximum), _of_neighbours(cells, np.minimum)
    found = np.zeros(len(cells))
    for lag in (1, 3):
        usual = np.zeros(cells.shape[1:])
        for _, outside in _outside(cells, brightest, darkest, lag):
            usual += outside.astype(np.float64) ** 2
        usual = (2 * np.sqrt(usual / len(cells))).astype(np.float32)
        strengths = np.zeros(len(cells))
        for index, outside in _outside(cells, brightest, darkest, lag):
            ratio = outside / (1.5 + usual + 2 * outside.mean())
            strengths[index] = np.partition(ratio.ravel(), -STRONGEST)[-STRONGEST:].mean()
        found = np.maximum(found, strengths / max(float(np.quantile(strengths, 0.9)), 1e-3))
    return found


def _outside(
    cells: np.ndarray, brightest: np.ndarray, darkest: np.ndarray, lag: int
) -> Iterator[tuple[int, np.ndarray]]:
    last = len(cells) - 1
    for index, picture in enumerate(cells):
        before, after = max(index - lag, 0), min(index + lag, last)
        yield (
            index,
            np.maximum(
                0,
                np.minimum(
                    np.maximum(picture - brightest[before], darkest[before] - picture),
                    np.maximum(picture - brightest[after], darkest[after] - picture),
                ),
            ),
        )


def _of_neighbours(cells: np.ndarray, pick: np.ufunc) -> np.ndarray:
    """The largest or smallest of each cell and its eight neighbours."""
    padded = np.pad(cells, ((0, 0), (1, 1), (0, 0)), mode="edge")
    cells = pick(pick(padded[:, :-2], padded[:, 1:-1]), padded[:, 2:])
    padded = np.pad(cells, ((0, 0), (0, 0), (1, 1)), mode="edge")
    return pick(pick(padded[:, :, :-2], padded[:, :, 1:-1]), padded[:, :, 2:])


def cuts(times: np.ndarray, cells: np.ndarray) -> np.ndarray:
    """Where one scene ends and another begins, (C,) float64 seconds: between two samples that differ nearly all over,
    and more than the samples around them do."""
    if len(cells) < 2:
        return np.zeros(0)
    change = np.array([float(np.median(np.abs(b - a))) for a, b in itertools.pairwise(cells)])
    padded = np.pad(change, 2, mode="reflect") if len(change) > 2 else np.pad(change, 2)
    around = np.sort(np.stack([padded[k : k + len(change)] for k in (0, 1, 3, 4)]), axis=0)[1]
    return ((times[:-1] + times[1:]) / 2)[(change > 8) & (change > 3 * around)]
