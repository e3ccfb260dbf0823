"""Predictions of a model over examples: the vision half once per video, then the task's predictions."""

from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from clipbert.console import progress
from clipbert.frame_cache import FrameCache
from clipbert.tasks.base import Evaluator
from clipbert.tasks.batch import Encoded, Example, Predictions
from clipbert.tasks.scoring import CachedFrames, ProcessorTokens, encode_clips, is_features


def predict(
    evaluator: Evaluator,
    model: Any,
    processor: Any,
    cache: FrameCache,
    examples: list[Example],
    clips: int,
    batch_size: int,
    blank: bool = False,
    title: str | None = None,
) -> Predictions:
    """Return the evaluator's predictions, one row per test item.

    Args:
        clips: uniform clips of each video.
        batch_size: text-video pairs in one forward pass.
        blank: whether the model sees black frames instead.
        title: of a progress bar; None shows none.
    """
    tokenize = ProcessorTokens(processor, next(model.parameters()).device)
    rows = []
    with torch.inference_mode(), progress(title, evaluator.count(examples)) as advance:
        videos = encode_videos(model, processor, cache, examples, clips, blank)
        for row in evaluator.predict(model, videos, examples, tokenize, batch_size):
            rows.append(row)
            advance(1, "")
    return pd.DataFrame(rows)


def encode_videos(
    model: Any, processor: Any, cache: FrameCache, examples: list[Example], clips: int, blank: bool = False
) -> Encoded:
    """Return the visual tokens of each example's uniform clips; blank videos share one tensor, encoded once."""
    videos = [CachedFrames(cache, e.media, e.segment) for e in (examples[:1] if blank else examples)]
    embeds = encode_clips(model, processor, videos, clips, blank)
    return Encoded([example.key for example in examples], embeds * len(examples) if blank else embeds)


def pixels(processor: Any, images: np.ndarray, clips: int, frames_per_clip: int) -> Tensor:
    """Return frames (K*T, H, W, 3) uint8 as (K, T, 3, S, S) uint8, where S is the model's image size.

    Features (K*T, ...) of the feature cache become (K, T, ...).
    """
    if is_features(images):
        return torch.from_numpy(images).unflatten(0, (clips, frames_per_clip))
    squares = torch.from_numpy(np.stack([processor.square(image) for image in images]))
    return squares.permute(0, 3, 1, 2).unflatten(0, (clips, frames_per_clip))
