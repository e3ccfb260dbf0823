"""Low-resolution scan of a video: 48 x 86 gray cells, two pictures per second.

Non-reference pictures are not decoded, block edges are not smoothed, and pictures are neither converted nor scaled:
four stored luma samples make a cell. Memory is bounded for any duration.
"""

from typing import Any

import numpy as np

ROWS, COLUMNS = 48, 86
STEP_S = 0.5
MOST = 8192
BACKWARDS_S = 1e-3


def scan(container: Any, stream: Any, duration_s: float) -> tuple[np.ndarray, np.ndarray]:
    """Scan an open file from its start.

    Returns:
        times: (S,) float64 ascending seconds from the first picture, at least half a second apart.
        cells: (S, 48, 86) int16 gray in quarters of a level, [0, 1023].

    Raises:
        ValueError: not one picture was decoded, or their times are missing or out of order.
        av.FFmpegError: the file cannot be read on.
    """
    import av

    step = max(STEP_S, duration_s / MOST)
    context = stream.codec_context
    context.thread_count = 1
    context.options = {"skip_loop_filter": "all"}
    context.skip_frame = "NONREF"
    times: list[float] = []
    cells: list[np.ndarray] = []
    latest = -np.inf
    for packet in container.demux(stream):
        try:
            frames = packet.decode()
        except av.error.InvalidDataError:
            continue
        for frame in frames:
            if frame.pts is None:
                raise ValueError("a picture without a time")
            time = float(frame.pts * frame.time_base)
            if time < latest - BACKWARDS_S:
                raise ValueError("times out of order")
            latest = time
            if not times or (time >= times[-1] + step - BACKWARDS_S and len(times) < MOST):
                times.append(time)
                cells.append(_cells(frame))
    if not times:
        raise ValueError("nothing could be decoded")
    return np.array(times) - times[0], np.stack(cells)


def _cells(frame: Any) -> np.ndarray:
    """Return the gray values of (48, 86) cells, each the sum of four samples of 8 bits, for any bit depth."""
    plane, form = frame.planes[0], frame.format
    depth = form.components[0].bits
    if not form.is_planar or form.is_rgb or form.is_big_endian or depth < 8:
        rows, depth = frame.to_ndarray(format="gray", threads=1), 8
    else:
        rows = np.frombuffer(plane, np.uint16 if depth > 8 else np.uint8).reshape(plane.height, -1)
    y = ((np.arange(2 * ROWS) + 0.5) * frame.height / (2 * ROWS)).astype(int)
    x = ((np.arange(2 * COLUMNS) + 0.5) * frame.width / (2 * COLUMNS)).astype(int)
    samples = rows[y[:, None], x[None, :]].astype(np.int32)
    pairs = samples[0::2] + samples[1::2]
    cells: np.ndarray = ((pairs[:, 0::2] + pairs[:, 1::2]) >> (depth - 8)).astype(np.int16)
    return cells
