"""The in-batch contrastive loss of the dual encoder, which several tasks add to their own loss.

A model that is trained from scratch learns from it which parts of an image words are about, long before the
cross-encoder's loss depends on the image.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from clipbert.distributed.collectives import RankRows
from clipbert.model.losses import symmetric_contrastive_loss
from clipbert.tasks.batch import Batch

PROJECTION_SIZE = 128
OVERLAP = 0.5  # of the shorter of two segments


def projection_size(weight: float) -> int | None:
    """Return `config.projection_size` for a weight of the contrastive loss: no dual encoder where it is 0."""
    return PROJECTION_SIZE if weight > 0 else None


def contrastive_loss(
    model: Any,
    visual_embeds: Tensor,
    input_ids: Tensor,
    attention_mask: Tensor,
    batch: Batch,
    text_lengths: Sequence[int] | None = None,
) -> tuple[Tensor, Tensor]:
    """Return the symmetric contrastive loss of texts and their videos.

    In a process group it covers the texts and videos of all ranks and is equal on each of them (`RankRows`).

    Args:
        visual_embeds: (B, K, V, hidden) of this rank's videos.
        input_ids, attention_mask: (B, L), one text per video.
        batch: the batch they come from. What is shown twice in it, on any rank, is not a negative of itself
            (`same_items`).
        text_lengths: (B,) numbers of tokens of the texts, where they are known on the host.

    Returns:
        The loss, and the scaled similarities (B texts of all ranks, B videos of this rank).
    """
    text, video = model.get_text_and_video_features(input_ids, attention_mask, visual_embeds, text_lengths)
    ranks = RankRows(batch.videos_per_rank)
    similarity = model.similarity(ranks.gather(text), ranks.gather(video))
    same = same_items(batch, ranks)
    return symmetric_contrastive_loss(similarity, same, model.label_smoothing), similarity[:, ranks.own]


def same_items(batch: Batch, ranks: RankRows) -> Tensor | None:
    """Return whether two rows show the same, (N, N) for the videos of all ranks; None where it is not known.

    That is the same video and, with segments, a common part of at least half of the shorter one. The text of such a
    segment also describes the other, so it is not a negative of it.
    """
    if batch.media_keys is None:
        return None
    keys = ranks.gather(batch.media_keys)
    same = keys[:, None] == keys[None, :]
    if batch.spans is None:
        return same
    start, end = ranks.gather(batch.spans).unbind(dim=1)
    common = torch.minimum(end[:, None], end[None, :]) - torch.maximum(start[:, None], start[None, :])
    shorter = torch.minimum((end - start)[:, None], (end - start)[None, :])
    return same & (common >= OVERLAP * shorter)


def add_caption_loss(
    loss: Tensor, weight: float, model: Any, visual_embeds: Tensor, batch: Batch
) -> tuple[Tensor, dict[str, Tensor]]:
    """Add `weight` times the contrastive loss of the batch's videos and their captions.

    Returns:
        The sum, and {"contrastive": loss} for the log; `loss` and {} for a batch without captions.
    """
    if batch.caption_ids is None or batch.caption_mask is None:
        return loss, {}
    contrastive, _ = contrastive_loss(
        model, visual_embeds, batch.caption_ids, batch.caption_mask, batch, batch.caption_lengths
    )
    return loss + weight * contrastive, {"contrastive": contrastive.detach()}
