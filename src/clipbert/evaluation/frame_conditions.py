"""The model on other frames than those of an evaluation: in a random order, and on a single one.

A model that scores the same on them does not use the order of the frames, or not more than one of them.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from clipbert.frame_cache import FrameCache
from clipbert.tasks.base import Evaluator
from clipbert.tasks.batch import Encoded, Example, Predictions
from clipbert.tasks.predict import encode_videos, predict

SEED = 0  # of the order of shuffled frames


def shuffled(indices: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the frames (K, T) of a video with those of each clip in another order, the same in every call."""
    generator, found = np.random.default_rng(SEED), indices.copy()
    for clip in found:
        if len(np.unique(clip)) > 1:
            original = clip.copy()
            while (clip == original).all():
                clip[:] = generator.permutation(original)
    return found


def middle_frame(indices: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the frames (K, T) of a video with the middle one in the place of each."""
    return np.full_like(indices, indices.flat[indices.size // 2])


def middle_clip(indices: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the frames (1, T) of the middle clip of a video, of those of all clips (K, T)."""
    return indices[len(indices) // 2 :][:1]


def uses_order(model: Any, frames_per_clip: int) -> bool:
    """Return whether the order of a clip's frames can change the model's scores."""
    return frames_per_clip > 1 and model.config.frame_fusion != "mean"


def condition_scores(
    evaluator: Evaluator,
    model: Any,
    processor: Any,
    cache: FrameCache,
    examples: list[Example],
    videos: Encoded | None,
    items: Predictions,
    batch_size: int,
    clips: int,
) -> dict[str, NDArray[np.float64]]:
    """Return the score of each test item with shuffled frames and with a single frame, NaN where it was not measured.

    Where the model's scores cannot depend on the condition, they are those of the evaluation itself. Otherwise at most
    `tasks.base.CONDITION_ITEMS` items are scored, see `Evaluator.for_conditions`.

    Args:
        videos: the encoded examples of the evaluation; None encodes them again where they are needed. With one frame
            per clip, the middle clip is the single frame.
        items: the predictions of the evaluation.
    """
    own = items["score"].to_numpy(dtype=float)
    frames = processor.frames_per_clip
    found = {"shuffled_frames": own, "single_frame": own}
    few, some = evaluator.for_conditions(model, examples)
    if uses_order(model, frames):
        other = encode_videos(model, processor, cache, some, clips, arrange=shuffled)
        found["shuffled_frames"] = _scores(few, model, processor, cache, some, other, items, batch_size)
    if frames > 1:
        other = encode_videos(model, processor, cache, some, 1, arrange=middle_frame)
        found["single_frame"] = _scores(few, model, processor, cache, some, other, items, batch_size)
    elif clips > 1:
        if videos is None:
            other = encode_videos(model, processor, cache, some, clips, arrange=middle_clip)
        else:
            other = Encoded(videos.keys, [embeds[len(embeds) // 2 :][:1] for embeds in videos.visual_embeds])
        found["single_frame"] = _scores(few, model, processor, cache, some, other, items, batch_size)
    return found


def _scores(
    evaluator: Evaluator,
    model: Any,
    processor: Any,
    cache: FrameCache,
    examples: list[Example],
    videos: Encoded,
    items: Predictions,
    batch_size: int,
) -> NDArray[np.float64]:
    title = f"evaluate {evaluator.name} (other frames)"
    found = predict(evaluator, model, processor, cache, examples, 1, batch_size, title=title, videos=videos)
    return found.set_index("item_id")["score"].reindex(items["item_id"]).to_numpy(dtype=float)
