"""Detection of transients: what is in a picture only briefly, compared with its shot after camera motion is removed.

Cells are those of `low_resolution_scan`: a grid of gray values in quarters of a level, two pictures per second. A shot
ends where nearly all cells change.
"""

import itertools
from dataclasses import dataclass

import numpy as np

# distances, in half seconds, of the pictures before and after for the comparison: near ones fit into short shots, far
# ones include the range of swaying objects
NEAR, FAR = (2, 4), (3, 4, 6, 9)
QUARTERS = 4
# a shift explains a change if the residual is below this fraction of the residual without shift
EXPLAINED = 0.7
CUT_LEVELS, STILL_LEVELS, NOISE_LEVELS = 8.0, 1.0, 1.5
UNIT = 4
CHUNK = 256


def cuts(cells: np.ndarray) -> np.ndarray:
    """Return the first picture of each shot except the first, (C,) int64: it differs nearly everywhere from the one
    before it, and more than the pictures around them do."""
    if len(cells) < 2:
        return np.zeros(0, np.int64)
    change = np.array([np.median(np.abs(after - before)) for before, after in itertools.pairwise(cells)]) / UNIT
    padded = np.pad(change, 2, mode="reflect") if len(change) > 2 else np.pad(change, 2)
    around = np.sort(np.stack([padded[k : k + len(change)] for k in (0, 1, 3, 4)]), axis=0)[1]
    return np.flatnonzero((change > CUT_LEVELS) & (change > 3 * around)) + 1


def camera_path(cells: np.ndarray, first: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the position of the camera in each picture, (x, y) each (S,) float64 in cells: the sum of the steps so
    far.

    A step is what lays the means of columns (and of rows) best over those of the picture before, in quarters of a cell,
    at most a tenth of the width and a sixteenth of the height.

    Args:
        first: pictures that begin a shot; there is no step to them.
    """
    reach_x, reach_y = round(cells.shape[2] / 10), round(cells.shape[1] / 16)
    across, down = np.zeros(len(cells)), np.zeros(len(cells))
    for start in range(0, len(cells) - 1, CHUNK):
        part = cells[start : start + CHUNK + 1].astype(np.float32)
        across[start + 1 : start + len(part)] = _steps(part.mean(axis=1), reach_x)
        down[start + 1 : start + len(part)] = _steps(part.mean(axis=2), reach_y)
    across[first] = down[first] = 0
    return np.cumsum(across), np.cumsum(down)


def _steps(profiles: np.ndarray, reach: int) -> np.ndarray:
    """Return (S - 1,) float64: the shifts d for which each profile at x is closest to the previous one at x + d."""
    places = np.arange(0, profiles.shape[1] - 1, 1 / QUARTERS)
    left, part = places.astype(int), np.float32(places % 1)
    fine = profiles[:, left] * (1 - part) + profiles[:, left + 1] * part
    steps = np.zeros(len(fine) - 1)
    moved = np.flatnonzero(np.diff(fine, axis=0).var(axis=1) > STILL_LEVELS**2 * UNIT**2)
    before, after = fine[moved], fine[moved + 1]
    still = before - after
    least = np.full(len(moved), EXPLAINED)
    for shift in sorted(range(-reach * QUARTERS, reach * QUARTERS + 1), key=abs):
        if shift:
            common = slice(max(-shift, 0), len(places) + min(-shift, 0))
            difference = before[:, max(shift, 0) : len(places) + min(shift, 0)] - after[:, common]
            # variance: a change of brightness is not a change of position; only the common part is compared
            left_over = (difference.var(axis=1) + 1) / (still[:, common].var(axis=1) + 1)
            better = left_over < least
            steps[moved[better]], least[better] = shift / QUARTERS, left_over[better]
    return steps


def transient_strengths(cells: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return how much of each picture is there only briefly, (S,) float64 each: compared with near and with far
    pictures.

    A cell counts by how far its gray lies outside what it and its eight neighbors showed in pictures before and after,
    of the same shot, where the camera pointed then; at least two of these must have seen the place. The sum of 3 x 3
    cells is divided by what it usually is at this place and by what the whole picture shows, so that restless places
    and passages weigh little; the strongest place counts.
    """
    first = cuts(cells)
    shot = np.zeros(len(cells), int)
    shot[first] = 1
    seen = _Seen(
        cells,
        np.cumsum(shot),
        camera_path(cells, first),
        _of_neighbours(cells, np.maximum),
        _of_neighbours(cells, np.minimum),
    )
    return _strongest(seen, NEAR), _strongest(seen, FAR)


@dataclass(frozen=True)
class _Seen:
    """Cells (S, rows, columns), the shot of each picture (S,), the camera position (x and y, (S,) each), and the
    maximum and minimum of each cell and its neighbors."""

    cells: np.ndarray
    shot: np.ndarray
    camera_path: tuple[np.ndarray, np.ndarray]
    brightest: np.ndarray
    darkest: np.ndarray


def _strongest(seen: _Seen, lags: tuple[int, ...]) -> np.ndarray:
    cells, shot = seen.cells, seen.shot
    x, y = seen.camera_path
    around = [-lag for lag in lags] + list(lags)
    found = np.zeros(cells.shape, np.int16)
    for index in range(len(cells)):
        others = [index + lag for lag in around if 0 <= index + lag < len(cells) and shot[index + lag] == shot[index]]
        if len(others) > 1:
            shifts = [(round(y[index] - y[other]), round(x[index] - x[other])) for other in others]
            found[index] = _outside(cells[index], seen.brightest[others], seen.darkest[others], shifts)
    usual = np.zeros(cells.shape[1:], np.float32)
    for over in found:
        usual += np.square(over, dtype=np.float32)
    usual = 2 * np.sqrt(usual / len(cells)) + np.float32(NOISE_LEVELS * UNIT * 9)
    return np.array([float((over / (usual + 2 * np.float32(over.mean()))).max()) for over in found])


def _outside(
    picture: np.ndarray, brightest: np.ndarray, darkest: np.ndarray, shifts: list[tuple[int, int]]
) -> np.ndarray:
    """Return how far each cell is outside the range of the others, summed over 3 x 3 cells; (rows, columns) int16."""
    rows, columns = picture.shape
    high, low = np.full_like(picture, -1), np.full_like(picture, 1024)
    seen = np.zeros(picture.shape, np.int8)
    for bright, dark, (down, across) in zip(brightest, darkest, shifts, strict=True):
        if abs(down) >= rows or abs(across) >= columns:
            continue
        here = slice(max(-down, 0), rows - max(down, 0)), slice(max(-across, 0), columns - max(across, 0))
        there = slice(max(down, 0), rows - max(-down, 0)), slice(max(across, 0), columns - max(-across, 0))
        np.maximum(high[here], bright[there], out=high[here])
        np.minimum(low[here], dark[there], out=low[here])
        seen[here] += 1
    padded = np.zeros((rows + 2, columns + 2), np.int16)
    padded[1:-1, 1:-1] = np.maximum(np.maximum(picture - high, low - picture), 0) * (seen > 1)
    padded = padded[:-2] + padded[1:-1] + padded[2:]
    summed: np.ndarray = padded[:, :-2] + padded[:, 1:-1] + padded[:, 2:]
    return summed


def _of_neighbours(cells: np.ndarray, pick: np.ufunc) -> np.ndarray:
    """Return the largest or smallest of each cell and its eight neighbors."""
    found = np.empty_like(cells)
    for start in range(0, len(cells), CHUNK):
        part = np.pad(cells[start : start + CHUNK], ((0, 0), (1, 1), (1, 1)), mode="edge")
        part = pick(pick(part[:, :-2], part[:, 1:-1]), part[:, 2:])
        found[start : start + CHUNK] = pick(pick(part[:, :, :-2], part[:, :, 1:-1]), part[:, :, 2:])
    return found


def robust_z_scores(values: np.ndarray) -> np.ndarray:
    """Return values in units of their robust spread (median absolute deviation) above the median; all zero if they
    hardly differ."""
    middle = np.median(values)
    spread = float(1.4826 * np.median(np.abs(values - middle)))
    scaled: np.ndarray = (values - middle) / spread if spread > 1e-9 else (values > middle) * 100.0
    return scaled
