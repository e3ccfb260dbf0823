"""Augmentation of the frames of a training video: one random crop, flip and color change for all of them."""

import math

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from clipbert.config.training import AugmentParams

LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)  # ITU-R BT.601, as PIL converts RGB to gray


def augment(frames: NDArray[np.uint8], params: AugmentParams, generator: np.random.Generator) -> NDArray[np.uint8]:
    """Return augmented frames of the same size; all frames get the same change, as they show one scene.

    The crop is the random resized crop of Szegedy et al. 2015 ("Going deeper with convolutions"), with the frame's own
    aspect ratio as the middle of the range of ratios, so that the padding of the frame stays that of evaluation.
    Brightness, contrast and saturation are blends with black, the mean gray and the gray frame, in this order.

    Args:
        frames: (N, H, W, 3) RGB.
        params: section `train.augment`.
        generator: gives the same numbers whatever is switched on, so that one parameter does not change the others.
    """
    area, ratio, left, top, flip, *colors = generator.random(8)
    height, width = frames.shape[1:3]
    if params.min_crop_area < 1:
        box = crop_box(height, width, params, (area, ratio, left, top))
        frames = np.stack([_resized(frame, box) for frame in frames])
    if flip < params.flip:
        frames = frames[:, :, ::-1]
    strengths = (params.brightness, params.contrast, params.saturation)
    if any(strengths):
        factors = [1 + strength * (2 * color - 1) for strength, color in zip(strengths, colors, strict=True)]
        frames = change_colors(frames, *factors)
    return np.ascontiguousarray(frames)


def crop_box(
    height: int, width: int, params: AugmentParams, draws: tuple[float, float, float, float]
) -> tuple[float, float, float, float]:
    """Return a box (left, top, right, bottom) in pixels inside a frame.

    Args:
        draws: numbers in [0, 1) for its area, its ratio, and its place.
    """
    area, ratio, left, top = draws
    share = params.min_crop_area + (1 - params.min_crop_area) * area
    stretch = math.exp((2 * ratio - 1) * math.log(params.max_crop_ratio))  # as often wider as narrower
    # a box that would leave the frame keeps its area as far as it can
    rows = min(1.0, math.sqrt(share / stretch))
    cols = min(1.0, share / rows)
    rows = min(1.0, share / cols)
    x, y = left * (1 - cols) * width, top * (1 - rows) * height
    return x, y, x + cols * width, y + rows * height


def change_colors(
    frames: NDArray[np.uint8], brightness: float, contrast: float, saturation: float
) -> NDArray[np.uint8]:
    """Return frames with changed colors; a factor of 1 changes nothing, 0 gives black, one gray, or gray frames.

    Args:
        frames: (N, H, W, 3) RGB.
    """
    colors = np.clip(frames.astype(np.float32) * np.float32(brightness), 0, 255)
    mean = (colors @ LUMA).mean(axis=(1, 2))[:, None, None, None]
    colors = np.clip(mean + np.float32(contrast) * (colors - mean), 0, 255)
    gray = (colors @ LUMA)[..., None]
    colors = np.clip(gray + np.float32(saturation) * (colors - gray), 0, 255)
    changed: NDArray[np.uint8] = colors.round().astype(np.uint8)
    return changed


def _resized(frame: NDArray[np.uint8], box: tuple[float, float, float, float]) -> NDArray[np.uint8]:
    size = (frame.shape[1], frame.shape[0])
    return np.asarray(Image.fromarray(frame).resize(size, Image.Resampling.BILINEAR, box=box))
