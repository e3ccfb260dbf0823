"""A model over examples: the vision half once a video, then the task's own predictions, text by text."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from clipbert.console import progress
from clipbert.frames import FrameCache
from clipbert.frames.sampling import uniform_clips
from clipbert.tasks.base import Encoded, Example, Predictions, Task

VIDEOS_AT_ONCE = 16


def predict(
    task: Task,
    model: Any,
    processor: Any,
    cache: FrameCache,
    examples: list[Example],
    clips: int,
    batch_size: int,
    blank: bool = False,
    title: str | None = None,
) -> Predictions:
    """One row a text, each video seen through `clips` uniform clips (black when `blank`); a title shows progress."""
    tokenize = ProcessorTokens(processor, next(model.parameters()).device)
    media = [example.media for example in examples]
    rows = []
    with torch.inference_mode(), progress(title, task.items(examples)) as advance:
        videos = encode_videos(model, processor, cache, media, clips, blank)
        for row in task.predict(model, videos, examples, tokenize, batch_size):
            rows.append(row)
            advance(1, "")
    return pd.DataFrame(rows)


def encode_videos(
    model: Any, processor: Any, cache: FrameCache, media: list[str], clips: int, blank: bool = False
) -> Encoded:
    """The vision half over uniform clips of each video, a few videos at a time."""
    device = next(model.parameters()).device
    embeds = []
    for start in range(0, len(media), VIDEOS_AT_ONCE):
        some = media[start : start + VIDEOS_AT_ONCE]
        pixels = torch.stack(
            [uniform_pixels(cache, name, processor, clips, model.config.frames_per_clip) for name in some]
        )
        embeds += list(model.encode_video(torch.zeros_like(pixels) if blank else pixels.to(device)))
    return Encoded(media, embeds)


@dataclass(frozen=True)
class ProcessorTokens:
    """A processor's tokenizer, with tensors on `device`."""

    processor: Any
    device: torch.device

    def __call__(self, texts: list[str]) -> tuple[Tensor, Tensor]:
        encoded = self.processor(texts=texts)
        return encoded["input_ids"].to(self.device), encoded["attention_mask"].to(self.device)

    def decode(self, ids: Tensor) -> list[str]:
        return list(self.processor.tokenizer.batch_decode(ids, skip_special_tokens=True))


def uniform_pixels(cache: FrameCache, media: str, processor: Any, clips: int, frames_per_clip: int) -> Tensor:
    """The clips of a video in evaluation, (K, T, 3, S, S): evenly spread, always the same."""
    frames = uniform_clips(cache.num_frames(media), clips, frames_per_clip)
    return pixels(processor, cache.read(media, frames.flatten()), clips, frames_per_clip)


def pixels(processor: Any, images: np.ndarray, clips: int, frames_per_clip: int) -> Tensor:
    """(K*T, H, W, 3) uint8 frames to (K, T, 3, S, S) uint8, S the model's image size."""
    squares = torch.from_numpy(np.stack([processor.square(image) for image in images]))
    return squares.permute(0, 3, 1, 2).unflatten(0, (clips, frames_per_clip))
