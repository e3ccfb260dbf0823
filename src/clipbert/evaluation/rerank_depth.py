"""How many videos of a text the cross-encoder reranks in a large gallery (`evaluate.rerank_top_k: auto`).

The number is chosen on the validation split, where every pair is scored once: the smallest one with which R@1, R@5 and
R@10 are not below those of the exact ranking. It is then scaled to the size of the test gallery, because the place of
the right video in the dual encoder's order grows with the number of videos.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from clipbert.evaluation.metrics.ranking import recall_at_k
from clipbert.tasks.base import thinned
from clipbert.tasks.batch import Example
from clipbert.tasks.gallery_scores import NOT_RERANKED, ScoreBlock, rank_in_row
from clipbert.tasks.scoring import most_similar

EXACT_GALLERY = 500  # videos: galleries up to this size are ranked exactly
VALIDATION_VIDEOS, VALIDATION_TEXTS = 500, 200  # at most; 100,000 pairs
DEPTHS = (10, 20, 50, 100, 200)
RECALLS = (1, 5, 10)


@dataclass(frozen=True)
class RerankChoice:
    """The number of reranked videos of a gallery, and what decided it.

    Attributes:
        top_k: None: all videos are scored.
        reason: a sentence for the log.
        recalls: R@1, R@5 and R@10 on the validation split in percent, exact and with each number of videos that was
            tried; empty where nothing was measured.
    """

    top_k: int | None
    reason: str
    recalls: dict[str, list[float]]


def exact_reason(gallery: int, model: Any) -> str | None:
    """Return why a gallery is ranked exactly without a look at the validation split; None if it is large."""
    if gallery <= EXACT_GALLERY:
        return f"{gallery} videos, at most {EXACT_GALLERY}: every pair is scored"
    if model.contrast is None:
        return "this model has no dual encoder to rank with first: every pair is scored"
    if not model.config.cross_encoder:
        return "the dual encoder alone scores this model's pairs"
    return None


def validation_gallery(examples: list[Example]) -> list[Example]:
    """Return at most `VALIDATION_VIDEOS` evenly spaced examples, with at most `VALIDATION_TEXTS` texts in all."""
    count = min(len(examples), VALIDATION_VIDEOS)
    chosen = [examples[int(i)] for i in np.linspace(0, len(examples) - 1, count).round()]
    return thinned(chosen, VALIDATION_TEXTS, keep_empty=True)


def choose_depth(
    blocks: Iterable[ScoreBlock], owners: NDArray[np.int64], gallery: int, test_gallery: int
) -> RerankChoice:
    """Choose the number of reranked videos of a gallery of `test_gallery` videos.

    Args:
        blocks: every score of the validation texts, with similarities.
        owners: (N,) the position of each text's own video.
        gallery: validation videos.
    """
    depths = [depth for depth in DEPTHS if depth < gallery]
    exact, ranks = np.empty(len(owners)), np.empty((len(depths), len(owners)))
    for block in blocks:
        assert block.similarity is not None
        for text, scores, similarity in zip(block.texts, block.scores, block.similarity, strict=True):
            truth = int(owners[text])
            exact[text] = rank_in_row(scores, similarity, truth)
            for row, depth in enumerate(depths):
                kept = most_similar(torch.from_numpy(similarity), depth, truth).numpy()
                reranked = np.full_like(scores, NOT_RERANKED)
                reranked[kept] = scores[kept]
                ranks[row, text] = rank_in_row(reranked, similarity, truth)
    wanted = np.array([recall_at_k(exact, k) for k in RECALLS])
    found = np.array([[recall_at_k(own, k) for k in RECALLS] for own in ranks]).reshape(-1, len(RECALLS))
    recalls = {"exact": wanted.tolist()} | {str(depth): row for depth, row in zip(depths, found.tolist(), strict=True)}
    enough = np.asarray((found >= wanted).all(axis=1))
    enough = np.logical_and.accumulate(enough[::-1])[::-1]  # with more videos, too
    measured = f"the validation split ({len(owners)} texts, {gallery} videos)"
    if not enough.any():
        return RerankChoice(
            None, f"no number of reranked videos keeps the recall of {measured}: every pair is scored", recalls
        )
    depth = depths[int(np.argmax(enough))]
    top_k = -(-depth * max(test_gallery, gallery) // gallery)
    if 2 * top_k >= test_gallery:
        return RerankChoice(
            None, f"{measured} needs {depth} reranked videos, which saves little: every pair is scored", recalls
        )
    shown = ", ".join(f"R@{k} {value:.1f}" for k, value in zip(RECALLS, wanted, strict=True))
    reason = (
        f"the cross-encoder reranks {top_k} of {test_gallery} videos per text: on {measured} {depth} are enough for "
        f"the recall of the exact ranking ({shown})"
    )
    return RerankChoice(top_k, reason, recalls)
