"""Times of candidate frames and selection of clips from them (ClipBERT, section 3: sparse sampling).

The cache holds `frames.fps` candidate frames per second of video. A clip is T consecutive candidates. A training step
sees K clips at random positions, evaluation K clips spread evenly.
"""

import math

import numpy as np

# containers round timestamps to milliseconds, decoders to float32
TIME_TOLERANCE_S = 1e-3


def candidate_times(duration_s: float, fps: float, max_frames: int) -> np.ndarray:
    """Return the times of the candidate frames, (N,) float64 seconds from the start of the video, 1 <= N <= max_frames.

    (i + 1/2) / fps for as long as the video lasts; when those are too many, or none, the middles of equal parts of it.
    """
    number = max(1, math.ceil(duration_s * fps - 0.5))
    spacing = 1 / fps
    if number > max_frames or spacing / 2 > duration_s:
        number = min(number, max_frames)
        spacing = duration_s / number
    return (np.arange(number) + 0.5) * spacing


def shown_at(starts: np.ndarray, times: np.ndarray) -> np.ndarray:
    """Return the index of the frame on screen at each of `times`, the last one that has started; (N,) int64.

    Args:
        starts: (frames,) ascending seconds; before the first of them the first frame counts as shown.
        times: (N,) seconds.
    """
    return np.maximum(np.searchsorted(starts, times + TIME_TOLERANCE_S, side="right") - 1, 0).astype(np.int64)


def random_clips(num_frames: int, clips: int, frames_per_clip: int, generator: np.random.Generator) -> np.ndarray:
    """Draw K random clips of T consecutive frames: (K, T) int64 indices below `num_frames`, in time order.

    The clips do not overlap when the video has room for that (num_frames >= K * T), and every such placement is
    equally likely; in a shorter video they are drawn independently, and one shorter than a clip repeats frames.

    Raises:
        ValueError: an argument is below 1.
    """
    _check(num_frames, clips, frames_per_clip)
    if num_frames >= clips * frames_per_clip:
        # choosing K of the places left when each clip is shrunk to one frame, then growing them back
        shrunk = generator.choice(num_frames - clips * (frames_per_clip - 1), size=clips, replace=False, shuffle=False)
        starts = np.sort(shrunk) + np.arange(clips) * (frames_per_clip - 1)
    else:
        starts = np.sort(generator.integers(0, max(num_frames - frames_per_clip, 0) + 1, size=clips))
    return _clips_at(starts, num_frames, frames_per_clip)


def uniform_clips(num_frames: int, clips: int, frames_per_clip: int) -> np.ndarray:
    """Return K clips of T consecutive frames, centered in K equal parts of the video: (K, T) int64, in time order.

    Always the same for the same arguments. A short video's clips overlap, and one shorter than a clip repeats frames.

    Raises:
        ValueError: an argument is below 1.
    """
    _check(num_frames, clips, frames_per_clip)
    # center (k + 1/2) N / K less half a clip, in exact integers
    starts = ((2 * np.arange(clips) + 1) * num_frames - clips * frames_per_clip) // (2 * clips)
    return _clips_at(np.clip(starts, 0, max(num_frames - frames_per_clip, 0)), num_frames, frames_per_clip)


def _check(num_frames: int, clips: int, frames_per_clip: int) -> None:
    for name, value in (("num_frames", num_frames), ("clips", clips), ("frames_per_clip", frames_per_clip)):
        if value < 1:
            raise ValueError(f"{name}: {value}; at least 1 is needed")


def _clips_at(starts: np.ndarray, num_frames: int, frames_per_clip: int) -> np.ndarray:
    offsets = np.arange(frames_per_clip)
    if num_frames < frames_per_clip:
        offsets = offsets * num_frames // frames_per_clip
    return (starts[:, None] + offsets[None, :]).astype(np.int64)
