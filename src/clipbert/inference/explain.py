"""Why a model answers as it does: the frames that it saw, the scores of its clips, and attention to cells and words.

Relevance of a token is attention weighted by its gradient, passed on through the layers (Chefer et al., "Generic
Attention-model Explainability", ICCV 2021): attention alone is the same for every answer.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from clipbert.errors import ClipBertError
from clipbert.inference.base import GivenFrames, Pipeline
from clipbert.model import (
    ClipBertForCaptioning,
    ClipBertForMultipleChoice,
    ClipBertForOpenQA,
    ClipBertForPreTraining,
    ClipBertForRetrieval,
)
from clipbert.model.captioning import mean_log_probabilities
from clipbert.model.losses import aggregate
from clipbert.sampling.clips import uniform_clips
from clipbert.sampling.segments import segment_item
from clipbert.sampling.video_input import decode_known, frames_inside, input_name
from clipbert.tasks.scoring import encode_clips, option_texts

CONTINUES = "##"  # start of a word piece that continues a word


@dataclass(frozen=True)
class Explanation:
    """What an answer rests on.

    Attributes:
        frames: (K, T) pictures that the model saw, each (h, w, 3) uint8 RGB without padding, and not yet resized to it.
        times: (K, T) seconds from the start of the file.
        clip_scores: (K,) probability that each clip alone gives.
        cells: (K, rows, columns) relevance of the grid cells, at most 1; they cover the picture with its padding.
        shown: share of the picture with its padding that `frames` fill, as (height, width).
        words: (word, relevance from 0 to 1) of the text; for a caption, the probability of each word.
    """

    frames: list[list[NDArray[np.uint8]]]
    times: NDArray[np.float64]
    clip_scores: NDArray[np.float64]
    cells: NDArray[np.float64]
    shown: tuple[float, float]
    words: list[tuple[str, float]]


@torch.inference_mode(False)  # gradients are needed, whatever the caller has set
def explain(pipeline: Pipeline, video: Any, text: str, answer: str, options: Sequence[str] = ()) -> Explanation:
    """Explain an answer about a video file.

    Args:
        pipeline: that gave the answer.
        video: a file, or a segment of one.
        text: the question, or the text that is matched.
        answer: the answer of open_qa, the option, or the caption; for a match, the text.
        options: of multiple choice.

    Raises:
        ClipBertError: the file cannot be read, or the model has no encoder of text and video together.
    """
    model, processor = pipeline.model, pipeline.processor
    images, times = _candidates(pipeline, video)
    indices = uniform_clips(len(images), processor.clips, processor.frames_per_clip)
    given = GivenFrames(images, pipeline.frames.size)
    (embeds,) = encode_clips(model, processor, [given], processor.clips)
    frames = [list(given.read(clip)) for clip in indices]
    fill = _filled(processor, frames[0][0])
    if processor.resize != "pad":
        frames = [[processor.square(frame) for frame in clip] for clip in frames]
    # tensors of inference mode cannot take part in a gradient
    visual = _grid_tokens(model, embeds.clone()[None])[0]
    side = math.isqrt(visual.shape[1])
    if side * side != visual.shape[1]:
        raise ClipBertError(f"--explain: {visual.shape[1]} visual tokens of a clip: expected those of a square grid.")
    caption = isinstance(model, ClipBertForCaptioning)
    if caption:
        scores, relevance, words = _explain_caption(pipeline, visual, answer)
    else:
        shown_text = option_texts(text, [answer])[0] if options else text
        scores, relevance, words = _explain_pair(pipeline, visual, shown_text, answer, text, options)
    cells = relevance.reshape(-1, side, side)
    return Explanation(
        frames,
        times[indices],
        scores,
        cells / max(float(cells.max()), 1e-12),
        fill,
        words,
    )


def _candidates(pipeline: Pipeline, video: Any) -> tuple[Any, NDArray[np.float64]]:
    """Return the candidate frames of a file, and their times."""
    file, segment = segment_item(video, "video") if isinstance(video, dict) else (video, None)
    if not isinstance(file, str | Path | bytes):
        raise ClipBertError("explanations need a file, whose frames have times: give its path or bytes.")
    frames = decode_known(file, pipeline.frames).frames
    if segment is None:
        return frames.images, frames.times
    inside = segment.frames(frames.times)
    return frames_inside(frames, segment, input_name(file)), frames.times[inside.start : inside.stop]


def _filled(processor: Any, frame: NDArray[np.uint8]) -> tuple[float, float]:
    """Return which share of the square a frame fills, as (height, width)."""
    if processor.resize != "pad":
        return 1.0, 1.0
    height, width = frame.shape[:2]
    longest = max(height, width)
    return height / longest, width / longest


def _grid_tokens(model: Any, visual_embeds: Tensor) -> Tensor:
    """Return the grid cells (B, K, cells, hidden) among visual tokens, without the rows of a dual encoder.

    Raises:
        ClipBertError: the model has no encoder of text and video together.
    """
    if not model.config.cross_encoder:
        raise ClipBertError(
            "--explain: this model compares a vector of the text with a vector of the video, so no attention goes from "
            "one to the other. Leave out --explain, or use a model with model.cross_encoder: true."
        )
    for head in (getattr(model, "pretrained", None), getattr(model, "direct", None)):
        if head is not None:
            visual_embeds = head.split_embeddings(visual_embeds)[0]
    return visual_embeds


def _tokens(pipeline: Pipeline, text: str) -> Tensor:
    """Return the token ids (1, L) of a text without padding, for the encoder of text and video."""
    input_ids, mask = pipeline.tokenize([text])
    pretrained = getattr(pipeline.model, "pretrained", None)
    if pretrained is not None:
        input_ids, mask, _ = pretrained.split_texts(input_ids, mask)
    return input_ids[:, : int(mask.sum())]


def _explain_pair(
    pipeline: Pipeline, visual: Tensor, shown_text: str, answer: str, question: str, options: Sequence[str]
) -> tuple[NDArray[np.float64], NDArray[np.float64], list[tuple[str, float]]]:
    """Return clip scores (K,), relevance of cells (K, V), and the words of a text with theirs.

    Args:
        visual: (K, V, hidden).
        shown_text: what the encoder reads: the question, with the option of multiple choice, or the text.
    """
    model = pipeline.model
    ids = _tokens(pipeline, shown_text)
    with torch.enable_grad():
        states, attention = _encode(model.clipbert, _embed(model, ids, visual), None)
        clip_logits = _pair_logits(model, states[:, 0])
        label = model.config.answers.index(answer) if isinstance(model, ClipBertForOpenQA) else clip_logits.shape[1] - 1
        logits = aggregate(clip_logits[None], model.config.score_aggregation)[0]
        others = logits[torch.arange(len(logits), device=logits.device) != label]
        odds = logits[label] - others.logsumexp(dim=0) if len(others) else logits[label]
        gradients = torch.autograd.grad(odds, attention)
    relevance = _relevance(attention, gradients)[:, 0]  # (K, S): of [CLS], which the head reads
    length = ids.shape[1]
    if isinstance(model, ClipBertForMultipleChoice):
        rows = [_embed(model, _tokens(pipeline, each), visual) for each in option_texts(question, options)]
        logits = torch.cat([_pair_logits(model, _encode(model.clipbert, row, None)[0][:, 0]) for row in rows], dim=1)
        probabilities = logits.softmax(dim=1)[:, list(options).index(answer)]
    elif clip_logits.shape[1] == 1 or (isinstance(model, ClipBertForOpenQA) and model.config.answer_loss == "bce"):
        probabilities = clip_logits[:, label].sigmoid()
    else:
        probabilities = clip_logits.softmax(dim=1)[:, label]
    return (
        probabilities.detach().double().cpu().numpy(),
        relevance[:, length:].double().cpu().numpy(),
        _words(pipeline, ids[0], relevance[:, :length].sum(dim=0)),
    )


def _embed(model: Any, ids: Tensor, visual: Tensor) -> Tensor:
    """Return the rows (K, L + V, hidden) of a text (1, L) with each clip's cells (K, V, hidden)."""
    text = model.clipbert.embeddings(input_ids=ids).expand(len(visual), -1, -1)
    return torch.cat([text, visual], dim=1)


def _pair_logits(model: Any, first: Tensor) -> Tensor:
    """Return the logits (K, labels) of the clips from the states (K, hidden) of [CLS]."""
    pooled = model.clipbert.pooler(first[:, None])
    if isinstance(model, ClipBertForPreTraining):
        logits: Tensor = model.cls.seq_relationship(pooled)
    else:
        assert isinstance(model, ClipBertForRetrieval | ClipBertForOpenQA | ClipBertForMultipleChoice)
        logits = model.classifier(pooled)
    return logits.float()


def _explain_caption(
    pipeline: Pipeline, visual: Tensor, caption: str
) -> tuple[NDArray[np.float64], NDArray[np.float64], list[tuple[str, float]]]:
    """Return clip scores (K,), relevance of cells (K, V), and the words of a caption with their probabilities."""
    model = pipeline.model
    ids = _tokens(pipeline, caption)
    clips, cells, length = visual.shape[0], visual.shape[1], ids.shape[1]
    allowed = torch.ones(cells + length, cells + length, dtype=torch.bool, device=visual.device).tril()
    allowed[:, :cells] = True
    with torch.enable_grad():
        text = model.clipbert.embeddings(input_ids=ids).expand(clips, -1, -1)
        states, attention = _encode(model.clipbert, torch.cat([visual, text], dim=1), allowed)
        clip_logits = model.cls(states[:, cells:])
        following = ids[0, 1:, None]
        steps = mean_log_probabilities(clip_logits[None])[0, :-1].gather(1, following)[:, 0]
        gradients = torch.autograd.grad(steps.sum(), attention)
    relevance = _relevance(attention, gradients)[:, cells:-1, :cells].sum(dim=1)
    each = clip_logits.log_softmax(dim=-1)[:, :-1].gather(2, following.expand(clips, -1, 1))[..., 0]
    words = _words(pipeline, ids[0, 1:-1], steps[:-1].detach().exp(), relative=False)
    return each.mean(dim=1).exp().detach().double().cpu().numpy(), relevance.double().cpu().numpy(), words


def _encode(clipbert: Any, rows: Tensor, allowed: Tensor | None) -> tuple[Tensor, list[Tensor]]:
    """Return the encoder states (K, S, hidden) of rows, and the attention (K, heads, S, S) of each layer."""
    found = []
    for layer in clipbert.encoder.layer:
        own = layer.attention.self
        heads = (own.num_attention_heads, own.attention_head_size)
        query, key, value = (
            part(rows).unflatten(-1, heads).transpose(1, 2) for part in (own.query, own.key, own.value)
        )
        scores = query @ key.transpose(2, 3) * own.scaling
        weights = (scores if allowed is None else scores.masked_fill(~allowed, float("-inf"))).softmax(dim=-1)
        found.append(weights)
        mixed = (weights @ value).transpose(1, 2).flatten(2)
        rows = layer.feed_forward_chunk(layer.attention.output(mixed, rows))
    return rows, found


def _relevance(attention: Sequence[Tensor], gradients: Sequence[Tensor]) -> Tensor:
    """Return how relevant each token (K, S, S) is for each, without itself: equations 5 and 6 of Chefer et al."""
    size = attention[0].shape[-1]
    found = torch.eye(size, device=attention[0].device).expand(len(attention[0]), size, size)
    for weights, gradient in zip(attention, gradients, strict=True):
        found = found + (weights.detach() * gradient).clamp(min=0).mean(dim=1) @ found
    return found - torch.eye(size, device=found.device)


def _words(pipeline: Pipeline, ids: Tensor, values: Tensor, relative: bool = True) -> list[tuple[str, float]]:
    """Return the words of token ids (L,), each with the largest of the values (L,) of its pieces.

    Args:
        relative: whether to divide by the largest value.
    """
    tokenizer = pipeline.processor.tokenizer
    found: list[tuple[str, float]] = []
    pairs = zip(tokenizer.convert_ids_to_tokens(ids.tolist()), values.tolist(), strict=True)
    for piece, value in pairs:
        if piece in tokenizer.all_special_tokens and piece != tokenizer.unk_token:
            continue
        if piece.startswith(CONTINUES) and found:
            word, earlier = found[-1]
            found[-1] = (word + piece.removeprefix(CONTINUES), max(earlier, value))
        else:
            found.append((piece, value))
    most = max([value for _, value in found], default=0.0) if relative else 1.0
    return [(word, value / most if most > 0 else 0.0) for word, value in found]
