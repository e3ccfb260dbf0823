"""Which moments of a long video are kept when its budget of frames follows the picture (`frames.sampling`).

A small gray survey of all of it (`survey.py`) says what passes by (`passing.py`) and where scenes end. What a file does
not tell (times, pictures) leaves the uniform choice.
"""

import numpy as np

from clipbert.sampling.clips import candidate_times
from clipbert.sampling.low_resolution_scan import STEP_S, scan
from clipbert.sampling.transients import cuts, robust_z_scores, transient_strengths
from clipbert.video.sequential import main_stream, open_media

# uniform candidates this close miss nothing that lasts a second
CLOSE_S = 1.0
FLOOR_SHARE = 0.25
NOTABLE = 2.5
APART_S = 2.0


def choose_times(path: str, duration_s: float, fps: float, max_frames: int, sampling: str) -> np.ndarray:
    """Return the times of the candidate frames of a video, (N,) float64 ascending seconds from its first frame.

    N is that of `candidate_times`. The same file gives the same times. Where candidates are at most a second apart, or
    the file cannot be scanned (no times, nothing decodable), the times are uniform.

    Args:
        duration_s: from the first frame to the end of the last.
        sampling: "uniform": evenly; "scene": one frame for each scene before any gets two; "adaptive": a quarter
            evenly, then at transients, the strongest first, and the rest in the widest gaps.
    """
    even = candidate_times(duration_s, fps, max_frames)
    if sampling == "uniform" or duration_s / len(even) <= CLOSE_S:
        return even
    try:
        return _by_content(path, duration_s, len(even), sampling)
    except (OSError, ValueError, ArithmeticError):
        # av.error's are OSErrors or ValueErrors
        return even


def _by_content(path: str, duration_s: float, number: int, sampling: str) -> np.ndarray:
    with open_media(path) as container:
        stream = main_stream(container)
        if stream is None:
            raise ValueError("no video stream")
        times, cells = scan(container, stream, duration_s)
    if sampling == "scene":
        first = cuts(cells)
        return over_scenes((times[first - 1] + times[first]) / 2, duration_s, number)
    return around_peaks(
        [peaks(times, robust_z_scores(values)) for values in transient_strengths(cells)], duration_s, number
    )


def peaks(times: np.ndarray, strengths: np.ndarray) -> list[float]:
    """Return the times of outliers (strength at least `NOTABLE`), the strongest first, none within `APART_S` of a
    stronger one."""
    free = strengths >= NOTABLE
    found = []
    for index in np.argsort(-strengths, kind="stable"):
        if free[index]:
            found.append(float(times[index]))
            free &= np.abs(times - times[index]) >= APART_S
    return found


def around_peaks(ranked: list[list[float]], duration_s: float, number: int) -> np.ndarray:
    """Return `number` times: a quarter spread evenly, then the first of each list of `ranked`, the second of each and
    so on, and the rest in the middles of the widest gaps."""
    floor = max(1, round(number * FLOOR_SHARE)) if number > 1 else 0
    kept = candidate_times(duration_s, floor / duration_s, floor).tolist() if floor else []
    for place in range(max(map(len, ranked), default=0)):
        for moments in ranked:
            if place < len(moments) and len(kept) < number and 0 <= moments[place] < duration_s:
                nearest = min((abs(time - moments[place]) for time in kept), default=np.inf)
                if nearest >= STEP_S:
                    kept.append(moments[place])
    return _filled(kept, duration_s, number)


def _filled(kept: list[float], duration_s: float, number: int) -> np.ndarray:
    """Add the middles of the widest gaps; a gap at an end of the video counts twice, as it has a frame on one side
    only."""
    moments = sorted(kept)
    while len(moments) < number:
        edges = [-moments[0], *moments, 2 * duration_s - moments[-1]] if moments else [0.0, duration_s]
        widths = np.diff(edges)
        widest = int(np.argmax(widths))
        middle = (edges[widest] + edges[widest + 1]) / 2
        if moments and widest == 0:
            middle = moments[0] / 3
        elif moments and widest == len(widths) - 1:
            middle = duration_s - (duration_s - moments[-1]) / 3
        moments = sorted([*moments, middle])
    return np.array(moments)


def over_scenes(boundaries: np.ndarray, duration_s: float, number: int) -> np.ndarray:
    """Return `number` times over the scenes between `boundaries`, the middles of equal parts of each: the longest
    scenes first if there are more scenes than times, those with the longest parts first if there are fewer."""
    inside = boundaries[(boundaries > 0) & (boundaries < duration_s)]
    edges = np.concatenate([[0.0], inside, [duration_s]])
    lengths = np.diff(edges)
    counts = np.zeros(len(lengths), int)
    counts[np.argsort(-lengths, kind="stable")[:number]] = 1
    for _ in range(number - int(counts.sum())):
        counts[np.argmax(lengths / np.maximum(counts, 1))] += 1
    parts = zip(edges[:-1], lengths, counts, strict=True)
    return np.concatenate([start + (np.arange(n) + 0.5) * length / n for start, length, n in parts if n])
