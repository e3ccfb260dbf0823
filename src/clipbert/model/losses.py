"""Clips joined, and the losses of the tasks (sections 3.2 and 3.3 of the paper)."""

import torch
from torch import Tensor, nn

IGNORED = -100


def aggregate(clip_logits: Tensor, how: str) -> Tensor:
    """Logits (N, K, labels) of the clips to those of the video (N, labels): logsumexp, mean or maximum over the clips.

    Cross entropy of the logsumexp is the multi-clip loss of the paper: logsumexp over (clips, labels) minus logsumexp
    over the clips of the true label.
    """
    clip_logits = _at_least_float32(clip_logits)
    if how == "lse":
        return torch.logsumexp(clip_logits, dim=1)
    return clip_logits.mean(dim=1) if how == "mean" else clip_logits.amax(dim=1)


def cross_entropy(logits: Tensor, labels: Tensor, smoothing: float = 0.0) -> Tensor:
    """`negative_log_likelihood` of the softmax of logits (N, labels)."""
    return negative_log_likelihood(_at_least_float32(logits).log_softmax(dim=1), labels, smoothing)


def negative_log_likelihood(log_probabilities: Tensor, labels: Tensor, smoothing: float = 0.0) -> Tensor:
    """Mean over the labels (N,) that are not -100 of minus their log-probability; zero, with a gradient, where all are.

    `smoothing` of each label goes to all classes alike, the true one among them (Szegedy et al. 2016); a class whose
    log-probability is minus infinity, an option that a question lacks, is none.
    """
    kept = labels != IGNORED
    total = nn.functional.nll_loss(log_probabilities, labels.long(), ignore_index=IGNORED, reduction="sum")
    if smoothing > 0:
        there = log_probabilities > float("-inf")
        of_all = log_probabilities.masked_fill(~there, 0).sum(dim=1) / there.sum(dim=1)
        total = (1 - smoothing) * total - smoothing * of_all.masked_fill(~kept, 0).sum()
    return total / kept.sum().clamp(min=1)


def soft_score_loss(logits: Tensor, scores: Tensor) -> Tensor:
    """Binary cross entropy of logits (N, labels) with scores in [0, 1], summed over the labels, mean over the texts."""
    logits = _at_least_float32(logits)
    loss = nn.functional.binary_cross_entropy_with_logits(logits, scores.to(logits.dtype), reduction="sum")
    return loss / logits.shape[0]


def symmetric_contrastive_loss(similarity: Tensor, videos: Tensor | None = None) -> Tensor:
    """Mean cross entropy of each text's own video among all videos, and of each video's own text among all texts.

    Args:
        similarity: (N, N) logits, texts by videos, row i belongs to column i.
        videos: (N,) a number for each row's video. Another row of the same video is no negative: it is left out.
    """
    truth = torch.arange(len(similarity), device=similarity.device)
    if videos is not None:
        again = (videos[:, None] == videos[None, :]) & (truth[:, None] != truth[None, :])
        similarity = similarity.masked_fill(again, float("-inf"))
    of_texts = nn.functional.cross_entropy(similarity, truth)
    return (of_texts + nn.functional.cross_entropy(similarity.T, truth)) / 2


def ranking_loss(scores: Tensor, labels: Tensor, owner: Tensor, margin: float) -> Tensor:
    """Hinge of every matched against every unmatched text of the same video, averaged over those pairs.

    Args:
        scores: (N,) in [0, 1].
        labels: (N,) 1 for a matched text.
        owner: (N,) the index of each text's video.

    Raises:
        ValueError: no video has both a matched and an unmatched text.
    """
    pairs = (owner[:, None] == owner[None, :]) & (labels[:, None] == 1) & (labels[None, :] == 0)
    if not bool(pairs.any()):
        raise ValueError("labels: the ranking loss needs a video with both a matched and an unmatched text.")
    return torch.relu(margin + scores[None, :] - scores[:, None])[pairs].mean()


def _at_least_float32(logits: Tensor) -> Tensor:
    return logits.to(torch.promote_types(logits.dtype, torch.float32))
