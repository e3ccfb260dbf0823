"""The number of reranked videos that is chosen on the validation split."""

from types import SimpleNamespace

import numpy as np
import pytest

from clipbert.evaluation.rerank_depth import (
    EXACT_GALLERY,
    VALIDATION_TEXTS,
    VALIDATION_VIDEOS,
    RerankChoice,
    choose_depth,
    exact_reason,
    validation_gallery,
)
from clipbert.tasks.batch import Example
from clipbert.tasks.gallery_scores import ScoreBlock

VIDEOS = 120
OWNERS = np.arange(VIDEOS)


def choice(place: int, test_gallery: int, missed: int = 30) -> RerankChoice:
    """Return the choice where the cross-encoder ranks every right video first, and the dual encoder puts `missed` of
    them at `place` (1-based) and the others first."""
    similarity = np.tile(-np.arange(VIDEOS, dtype=np.float32), (VIDEOS, 1))
    order = np.stack([np.roll(np.arange(VIDEOS), text) for text in range(VIDEOS)])
    similarity = np.take_along_axis(similarity, order, axis=1)
    similarity[OWNERS, OWNERS] = 1.0
    for text in range(missed):
        others = np.sort(np.delete(similarity[text], text))[::-1]
        similarity[text, text] = (others[place - 2] + others[place - 1]) / 2
    scores = np.zeros((VIDEOS, VIDEOS), dtype=np.float32)
    scores[OWNERS, OWNERS] = 1.0
    blocks = [ScoreBlock(part, scores[part], similarity[part]) for part in np.array_split(OWNERS[::-1], 5)]
    return choose_depth(blocks, OWNERS, VIDEOS, test_gallery)


def test_the_smallest_number_without_a_lower_recall_is_scaled_to_the_gallery() -> None:
    found = choice(place=15, test_gallery=1200)
    assert found.top_k == 200  # 20 of 120 videos
    assert found.recalls["exact"] == [100, 100, 100]
    assert found.recalls["10"] == [75, 75, 75]
    assert found.recalls["20"] == [100, 100, 100]
    assert "reranks 200 of 1200 videos per text: on the validation split (120 texts, 120 videos) 20 are enough" in (
        found.reason
    )
    assert choice(place=2, test_gallery=1200).top_k == 100
    # a validation split that is larger than the gallery does not lower the number
    assert choice(place=2, test_gallery=60).top_k == 10


def test_every_pair_is_scored_where_reranking_loses_recall_or_saves_little() -> None:
    lost = choice(place=115, test_gallery=1200)
    assert (lost.top_k, "no number of reranked videos keeps the recall" in lost.reason) == (None, True)
    little = choice(place=95, test_gallery=1200)
    assert (little.top_k, "needs 100 reranked videos, which saves little" in little.reason) == (None, True)


def test_small_galleries_and_models_of_one_stage_are_ranked_exactly() -> None:
    two = SimpleNamespace(contrast=True, config=SimpleNamespace(cross_encoder=True))
    assert exact_reason(EXACT_GALLERY, two) is not None
    assert exact_reason(EXACT_GALLERY + 1, two) is None
    without = SimpleNamespace(contrast=None, config=SimpleNamespace(cross_encoder=True))
    assert exact_reason(10**5, without) is not None
    alone = SimpleNamespace(contrast=True, config=SimpleNamespace(cross_encoder=False))
    assert exact_reason(10**5, alone) is not None


@pytest.mark.parametrize(("videos", "texts_each"), [(30, 2), (3000, 5)])
def test_the_validation_gallery_is_bounded(videos: int, texts_each: int) -> None:
    examples = [
        Example(
            f"v{i}", [f"{i}-{n}" for n in range(texts_each)], ["t"] * texts_each, [""] * texts_each, [""] * texts_each
        )
        for i in range(videos)
    ]
    found = validation_gallery(examples)
    assert len(found) == min(videos, VALIDATION_VIDEOS) == len({example.key for example in found})
    assert sum(len(example.texts) for example in found) == min(VALIDATION_TEXTS, videos * texts_each)
