"""Predictions of a model over examples: the vision half once per video, then the task's predictions."""

from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from clipbert.console import progress
from clipbert.errors import ClipBertError
from clipbert.frame_cache import FrameCache
from clipbert.tasks.base import Evaluator
from clipbert.tasks.batch import Encoded, Example, Predictions
from clipbert.tasks.scoring import (
    VIDEOS_AT_ONCE,
    Arrange,
    CachedFrames,
    ProcessorTokens,
    encode_clips,
    is_features,
)


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
    videos: Encoded | None = None,
) -> Predictions:
    """Return the evaluator's predictions, one row per test item.

    Args:
        clips: uniform clips of each video.
        batch_size: text-video pairs in one forward pass.
        blank: whether the model sees black frames instead.
        title: of a progress bar; None shows none.
        videos: the encoded examples, if the caller has them; None encodes `clips` uniform clips of each.

    Raises:
        ClipBertError: a score is not a number.
    """
    tokenize = ProcessorTokens(processor, next(model.parameters()).device)
    rows = []
    with torch.inference_mode(), progress(title, evaluator.count(examples)) as advance:
        if videos is None:
            videos = encode_videos(model, processor, cache, examples, clips, blank)
        for row in evaluator.predict(model, videos, examples, tokenize, batch_size):
            rows.append(row)
            advance(1, "")
    place = {item_id: number for number, item_id in enumerate(evaluator.item_ids(examples))}
    rows.sort(key=lambda row: place.get(row["item_id"], len(place)))
    items = pd.DataFrame(rows)
    _check_finite(evaluator.name, items)
    return items


def _check_finite(task: str, items: Predictions) -> None:
    """Raise ClipBertError if a score or a confidence is not a number; the message names the item."""
    for column in [name for name in ("score", "confidence", "log_probability", "matched") if name in items]:
        bad = np.flatnonzero(items[column].isna())
        if len(bad):
            first = items.iloc[bad[0]]
            raise ClipBertError(
                f"{task}: the {column} of the item {first['item_id']} ({first['media']}) is not a number, and so for "
                f"{len(bad)} of {len(items)} items. The weights of the model are damaged or its training diverged: "
                "train again with a lower train.lr."
            )


def encode_videos(
    model: Any,
    processor: Any,
    cache: FrameCache,
    examples: list[Example],
    clips: int,
    blank: bool = False,
    arrange: Arrange | None = None,
    title: str | None = None,
) -> Encoded:
    """Return the visual tokens of each example's uniform clips; blank videos share one tensor, encoded once.

    Args:
        arrange: gives other frames than those of the clips, see `clip_pixels`.
        title: of a progress bar; None shows none.
    """
    videos = [CachedFrames(cache, e.media, e.segment) for e in (examples[:1] if blank else examples)]
    embeds: list[Tensor] = []
    with progress(title, len(videos)) as advance:
        for start in range(0, len(videos), VIDEOS_AT_ONCE):
            some = videos[start : start + VIDEOS_AT_ONCE]
            embeds += encode_clips(model, processor, some, clips, blank, arrange)
            advance(len(some), "")
    return Encoded([example.key for example in examples], embeds * len(examples) if blank else embeds)


def pixels(processor: Any, images: np.ndarray, clips: int, frames_per_clip: int) -> Tensor:
    """Return frames (K*T, H, W, 3) uint8 as (K, T, 3, S, S) uint8, where S is the model's image size.

    Features (K*T, ...) of the feature cache become (K, T, ...).
    """
    if is_features(images):
        return torch.from_numpy(images).unflatten(0, (clips, frames_per_clip))
    squares = torch.from_numpy(np.stack([processor.square(image) for image in images]))
    return squares.permute(0, 3, 1, 2).unflatten(0, (clips, frames_per_clip))
