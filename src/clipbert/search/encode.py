"""Vectors and visual tokens of clips, made as evaluation makes them."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from clipbert.config.schema import FramesParams
from clipbert.errors import ClipBertError
from clipbert.inference.base import GivenFrames
from clipbert.model.processor_file import FRAME_SETTINGS
from clipbert.model.weights.init_from import digest
from clipbert.search.decode import DecodedVideo
from clipbert.search.index_file import Settings
from clipbert.tasks.scoring import VIDEOS_AT_ONCE, encode_clips

CLIP_S = 10.0
MOST_FRAMES = 2048  # candidate frames of a video, so that each clip of a long one has some


@dataclass(frozen=True)
class EncodedVideo:
    """Vectors (n, P) float16 and visual tokens (n, K, V, hidden) float16, or None, of the n clips of a video."""

    video: DecodedVideo
    vectors: NDArray[np.float16]
    tokens: NDArray[np.float16] | None


def settings_of(pipeline: Any, clip_s: float = CLIP_S, tokens: bool = True) -> Settings:
    """Return the settings of an index that a pipeline makes.

    Args:
        clip_s: longest clip in seconds.
        tokens: whether to store visual tokens. A model without a cross-encoder needs none.

    Raises:
        ClipBertError: the model is not one of retrieval with a dual encoder, or `clip_s` is not positive.
    """
    if not clip_s > 0:
        raise ClipBertError(f"clip_s is {clip_s!r}: expected the longest clip in seconds, above 0.")
    model, frames = pipeline.model, pipeline.frames
    if pipeline.task != "retrieval":
        raise ClipBertError(
            f"{pipeline.folder}: is a model of {pipeline.task}: expected a model of retrieval. Give its folder, or "
            "train one: clipbert train retrieval"
        )
    if model.contrast is None:
        raise ClipBertError(
            f"{pipeline.folder}: this model has no dual encoder (projection_size is null), which makes the vectors of "
            "an index. Train with tasks.retrieval.contrastive_weight above 0."
        )
    chosen = {name: getattr(frames, name) for name in FRAME_SETTINGS}
    chosen["max_frames"] = max(frames.max_frames, MOST_FRAMES)
    return Settings(
        model=digest(Path(pipeline.folder)),
        clips=pipeline.processor.clips,
        frames_per_clip=pipeline.processor.frames_per_clip,
        frames=chosen,
        clip_s=float(clip_s),
        tokens=bool(tokens and model.config.cross_encoder),
        dimension=_dimension(pipeline),
    )


@torch.inference_mode()
def _dimension(pipeline: Any) -> int:
    return int(pipeline.model.get_text_features(*pipeline.tokenize(["a"])).shape[1])


def frames_params(settings: Settings) -> FramesParams:
    """Return how the candidate frames of an index were taken."""
    return FramesParams(**settings.frames)


@torch.inference_mode()
def encode(pipeline: Any, clips: Sequence[NDArray[np.uint8]], settings: Settings) -> tuple[Any, Any]:
    """Return the vectors (N, P) and the visual tokens (N, K, V, hidden) of the frames of N clips, on the CPU."""
    size = settings.frames["size"]
    given = [GivenFrames(images, size) for images in clips]
    embeds = torch.stack(encode_clips(pipeline.model, pipeline.processor, given, settings.clips))
    vectors = pipeline.model.get_video_features(embeds).float().cpu().numpy().astype(np.float16)
    return vectors, embeds.float().cpu().numpy().astype(np.float16) if settings.tokens else None


def encode_videos(
    pipeline: Any, videos: Iterable[tuple[Any, DecodedVideo | Exception]], settings: Settings
) -> Iterator[tuple[Any, EncodedVideo | Exception]]:
    """Yield each item with the vectors of its video, in order; clips of several videos share a forward pass.

    Args:
        videos: items of any kind with the decoded video, or why there is none.
    """
    waiting: list[tuple[Any, DecodedVideo | Exception]] = []
    clips = 0
    for item, video in videos:
        waiting.append((item, video))
        clips += 0 if isinstance(video, Exception) else len(video.images)
        if clips >= VIDEOS_AT_ONCE or len(waiting) >= 4 * VIDEOS_AT_ONCE:
            yield from _encoded(pipeline, waiting, settings)
            waiting, clips = [], 0
    yield from _encoded(pipeline, waiting, settings)


def _encoded(
    pipeline: Any, waiting: list[tuple[Any, DecodedVideo | Exception]], settings: Settings
) -> Iterator[tuple[Any, EncodedVideo | Exception]]:
    images = [clip for _, video in waiting if isinstance(video, DecodedVideo) for clip in video.images]
    if images:
        vectors, tokens = encode(pipeline, images, settings)
    start = 0
    for item, video in waiting:
        if isinstance(video, Exception):
            yield item, video
            continue
        rows = slice(start, start + len(video.images))
        start = rows.stop
        yield item, EncodedVideo(video, vectors[rows], None if tokens is None else tokens[rows])
