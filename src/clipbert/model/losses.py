"""Clip aggregation and task losses (sections 3.2 and 3.3 of the paper)."""

import torch
from torch import Tensor, nn

from clipbert.model.inputs import can_read_values

IGNORED = -100


def aggregate(clip_logits: Tensor, how: str) -> Tensor:
    """Return logits (N, labels) of videos: logsumexp, mean or maximum over the clips of `clip_logits` (N, K, labels).

    The cross-entropy of the logsumexp is the multi-clip loss of the paper: logsumexp over (clips, labels) minus
    logsumexp over the clips of the true label.
    """
    clip_logits = _at_least_float32(clip_logits)
    if how == "lse":
        return torch.logsumexp(clip_logits, dim=1)
    return clip_logits.mean(dim=1) if how == "mean" else clip_logits.amax(dim=1)


def cross_entropy(logits: Tensor, labels: Tensor, smoothing: float = 0.0) -> Tensor:
    """Return `negative_log_likelihood` of the log-softmax of logits (N, labels)."""
    return negative_log_likelihood(_at_least_float32(logits).log_softmax(dim=1), labels, smoothing)


def negative_log_likelihood(log_probabilities: Tensor, labels: Tensor, smoothing: float = 0.0) -> Tensor:
    """Return the mean negative log-probability (N, classes) of the labels (N,) that are not -100.

    The loss is zero, with a gradient, where all labels are -100. `smoothing` is the share of each label that is spread
    evenly over all classes, the true one included (Szegedy et al. 2016); classes of log-probability minus infinity,
    the options that a question lacks, get none.
    """
    kept = labels != IGNORED
    total = nn.functional.nll_loss(log_probabilities, labels.long(), ignore_index=IGNORED, reduction="sum")
    if smoothing > 0:
        there = log_probabilities > float("-inf")
        of_all = log_probabilities.masked_fill(~there, 0).sum(dim=1) / there.sum(dim=1)
        total = (1 - smoothing) * total - smoothing * of_all.masked_fill(~kept, 0).sum()
    return total / kept.sum().clamp(min=1)


def soft_score_loss(logits: Tensor, scores: Tensor) -> Tensor:
    """Return the binary cross-entropy of logits and scores (N, labels), summed over labels and averaged over texts."""
    logits = _at_least_float32(logits)
    loss = nn.functional.binary_cross_entropy_with_logits(logits, scores.to(logits.dtype), reduction="sum")
    return loss / logits.shape[0]


def symmetric_contrastive_loss(similarity: Tensor, same: Tensor | None = None, label_smoothing: float = 0.0) -> Tensor:
    """Return the mean of the text-to-video and the video-to-text cross-entropy (CLIP, Radford et al. 2021).

    Args:
        similarity: (N, N) logits, texts by videos; text i belongs to video i.
        same: (N, N) whether two rows show the same; such pairs are excluded from the negatives.
        label_smoothing: probability mass of each label that is spread evenly over all classes that are not excluded.
    """
    truth = torch.arange(len(similarity), device=similarity.device)
    if same is not None:
        again = same & (truth[:, None] != truth[None, :])
        similarity = similarity.masked_fill(again, float("-inf"))
    of_texts = _smoothed_cross_entropy(similarity, truth, label_smoothing)
    return (of_texts + _smoothed_cross_entropy(similarity.T, truth, label_smoothing)) / 2


def _smoothed_cross_entropy(logits: Tensor, labels: Tensor, label_smoothing: float) -> Tensor:
    """Return the mean cross-entropy; a class with a logit of minus infinity gets no share of the smoothing."""
    hard = nn.functional.cross_entropy(logits, labels)
    if label_smoothing == 0:
        return hard
    kept = torch.isfinite(logits)
    log_probabilities = logits.log_softmax(dim=1).masked_fill(~kept, 0.0)
    even = -(log_probabilities.sum(dim=1) / kept.sum(dim=1)).mean()
    return (1 - label_smoothing) * hard + label_smoothing * even


def ranking_loss(scores: Tensor, labels: Tensor, owner: Tensor, margin: float) -> Tensor:
    """Return the mean hinge loss over all pairs of a matched and an unmatched text of the same video.

    Args:
        scores: (N,) in [0, 1].
        labels: (N,) 1 for a matched text.
        owner: (N,) index of each text's video.
        margin: by which a matched text should score higher.

    Raises:
        ValueError: no video has both a matched and an unmatched text.
    """
    pairs = (owner[:, None] == owner[None, :]) & (labels[:, None] == 1) & (labels[None, :] == 0)
    if can_read_values(pairs) and not bool(pairs.any()):
        raise ValueError("labels: the ranking loss needs a video with both a matched and an unmatched text.")
    # a sum over all cells, because a choice of them would wait for a GPU to know how many there are
    hinge = torch.relu(margin + scores[None, :] - scores[:, None]).masked_fill(~pairs, 0)
    return hinge.sum() / pairs.sum().clamp(min=1)


def _at_least_float32(logits: Tensor) -> Tensor:
    return logits.to(torch.promote_types(logits.dtype, torch.float32))
