"""Checks of what a processor takes: each error names the argument, what it is and what was expected."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

Frames = NDArray[np.uint8] | Sequence[Image.Image]
File = str | Path | bytes
Video = Frames | Image.Image | File | Mapping[str, Any]
ClipIndices = NDArray[np.integer[Any]] | Sequence[Sequence[int]]


def check_videos(videos: object, name: str) -> None:
    """Check that an argument is a list of videos; each video is checked when it is read.

    Raises:
        ValueError: naming the argument, what it is and what was expected.
    """
    if isinstance(videos, str | bytes | Path | Image.Image):
        raise ValueError(f"{name} is {short_repr(videos)}: pass one video as a list, {name}=[video].")
    if isinstance(videos, np.ndarray | torch.Tensor) and videos.ndim == 4:
        raise ValueError(f"{name} has shape {tuple(videos.shape)}: pass one video as a list, {name}=[video].")
    if not isinstance(videos, Sequence | np.ndarray):
        raise ValueError(f"{name} is {short_repr(videos)}: expected a list of videos.")
    if len(videos) == 0:
        raise ValueError(f"{name} is empty: expected a list of at least one video.")


def check_frames(video: Frames, number: int) -> Frames:
    """Check the frames of the video at position `number` of its list, and return them.

    Raises:
        ValueError: naming the video, what it is and what was expected.
    """
    if isinstance(video, np.ndarray):
        if video.ndim != 4 or video.shape[3] != 3 or 0 in video.shape or video.dtype != np.uint8:
            raise ValueError(
                f"frames[{number}] has shape {video.shape} and type {video.dtype}: expected (frames, height, width, 3) "
                f"of type uint8, RGB.{_hint(video)}"
            )
        return video
    if not isinstance(video, list | tuple) or not video or not all(isinstance(image, Image.Image) for image in video):
        raise ValueError(
            f"frames[{number}] is {short_repr(video)}: expected a path, the bytes of a file, a (frames, height, width, "
            "3) uint8 array or a list of PIL images."
        )
    for position, image in enumerate(video):
        if image.mode in ("F", "I"):
            raise ValueError(
                f"frames[{number}][{position}] is an image of PIL's mode {image.mode!r}, which has no fixed range: "
                "expected 'RGB', 'L' or another of 8 bits."
            )
    return video


def check_indices(indices: ClipIndices, available: int, number: int) -> NDArray[np.integer[Any]]:
    """Return the clip indices (clips, frames) of the video at position `number`, which has `available` frames.

    Raises:
        ValueError: naming the video, its indices and what was expected.
    """
    try:
        array = np.asarray(indices)
    except ValueError as error:
        raise ValueError(
            f"clip_indices[{number}] is {short_repr(indices)}: expected integers (clips, frames), as many in each clip."
        ) from error
    if array.ndim != 2 or 0 in array.shape or not np.issubdtype(array.dtype, np.integer):
        raise ValueError(
            f"clip_indices[{number}] has shape {array.shape} and type {array.dtype}: expected integers (clips, frames)."
        )
    if array.min() < 0 or array.max() >= available:
        wrong = int(array.max() if array.max() >= available else array.min())
        raise ValueError(f"clip_indices[{number}] holds {wrong}: expected 0 to {available - 1}, the video's frames.")
    return array


def _hint(video: NDArray[Any]) -> str:
    """Return advice for frames in a common wrong format."""
    if video.ndim == 4 and video.shape[3] != 3 and video.shape[1] == 3:
        return " The channels look first: pass video.transpose(0, 2, 3, 1)."
    if np.issubdtype(video.dtype, np.floating) and video.size and video.min() >= 0 and video.max() <= 1:
        return " The values look like 0 to 1: pass (255 * video).round().astype(np.uint8)."
    return ""


def short_repr(value: object) -> str:
    """Return a short description of a value for messages."""
    if isinstance(value, np.ndarray | torch.Tensor):
        return f"a {type(value).__module__}.{type(value).__name__} of shape {tuple(value.shape)} and type {value.dtype}"
    if isinstance(value, list | tuple) and value and isinstance(value[0], np.ndarray | torch.Tensor):
        return f"a list that starts with {short_repr(value[0])}"
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}..."
