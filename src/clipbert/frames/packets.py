"""What the packets of a video tell without decoding one: when each picture is shown, and where coding it cost more."""

from array import array
from dataclasses import dataclass
from typing import Any

import numpy as np

NEIGHBOURHOOD_S = 30.0
LEVELS = 4


@dataclass(frozen=True)
class Packets:
    """The video packets of one file in decoding order.

    Attributes:
        origin: (seconds, of the file's own clock) when the first picture is shown.
        times: (P,) float64 seconds from then.
        sizes: (P,) float64 bytes, without the filler of constant bit rates.
        levels: (P,) int64: 0 a key frame, 1 a picture later than all before it, 2 and more one shown between others,
            the deeper the larger.
    """

    origin: float
    times: np.ndarray
    sizes: np.ndarray
    levels: np.ndarray


def read_packets(container: Any, stream: Any) -> Packets:
    """Read all packets of a stream.

    Raises:
        ValueError: a packet says no time, or there is none.
    """
    times, sizes, levels = array("d"), array("d"), array("q")
    latest, between = -np.inf, [(-np.inf, 0)]
    for packet in container.demux(stream):
        if not packet.size or packet.is_discard:
            continue
        if packet.pts is None:
            raise ValueError("a packet without a time")
        time = float(packet.pts * packet.time_base)
        if packet.is_keyframe or time > latest:
            level = 0 if packet.is_keyframe else 1
            between = [(latest, level), (time, level)]
            latest = max(latest, time)
        else:
            before = max((known for known in between if known[0] < time), default=(0.0, 1))
            after = min((known for known in between if known[0] > time), default=(0.0, 1))
            level = max(before[1], after[1], 1) + 1
            between.append((time, level))
        times.append(time)
        sizes.append(_payload(packet))
        levels.append(min(level, LEVELS))
    if not times:
        raise ValueError("no packets")
    seconds = np.array(times)
    return Packets(float(seconds.min()), seconds - seconds.min(), np.array(sizes), np.array(levels))


def _payload(packet: Any) -> int:
    """Bytes of a packet less the filler (0xFF ... 0x80) at its end."""
    data = memoryview(packet)
    if len(data) > 2 and data[-1] == 0x80 and data[-2] == 0xFF:
        return len(bytes(data).rstrip(b"\x80").rstrip(b"\xff"))
    return len(data)


def cost(packets: Packets, times: np.ndarray, window_s: float) -> np.ndarray:
    """How much more than usual the pictures shown in `window_s` seconds around each of `times` cost, (N,) float64.

    A picture is compared with those of its own level within half a minute, in units of their usual spread; key frames
    do not count. Rate control, levels and the general restlessness of a passage drop out so.
    """
    order = np.argsort(packets.times, kind="stable")
    seconds, sizes, levels = packets.times[order], packets.sizes[order], packets.levels[order]
    excess = np.zeros(len(seconds))
    for level in range(1, LEVELS + 1):
        members = np.flatnonzero(levels == level)
        if len(members) < 16:
            continue
        over = _over_local_median(seconds[members], np.log(sizes[members] + 20))
        excess[members] = np.clip(over / (_spread(over) + 1e-6), -4, 8)
    counted = levels > 0
    seconds, sums = seconds[counted], np.concatenate([[0.0], np.cumsum(excess[counted])])
    first = np.searchsorted(seconds, times - window_s / 2)
    last = np.searchsorted(seconds, times + window_s / 2)
    return (sums[last] - sums[first]) / np.sqrt(np.maximum(last - first, 1))


def _over_local_median(seconds: np.ndarray, values: np.ndarray) -> np.ndarray:
    grid = np.arange(seconds[0], seconds[-1] + NEIGHBOURHOOD_S / 5, NEIGHBOURHOOD_S / 5)
    first = np.searchsorted(seconds, grid - NEIGHBOURHOOD_S)
    last = np.searchsorted(seconds, grid + NEIGHBOURHOOD_S, side="right")
    medians = [np.median(values[a:b]) if b > a else np.nan for a, b in zip(first, last, strict=True)]
    known = ~np.isnan(medians)
    return values - np.interp(seconds, grid[known], np.array(medians)[known])


def _spread(values: np.ndarray) -> float:
    """The standard deviation that the middle half of the values suggests."""
    return float(1.4826 * np.median(np.abs(values - np.median(values))))


def standing_out(values: np.ndarray) -> np.ndarray:
    """Values in units of their own usual spread above their median; all zero when they hardly differ."""
    spread = _spread(values)
    return (values - np.median(values)) / spread if spread > 1e-9 else (values > np.median(values)) * 100.0
