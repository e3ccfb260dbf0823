"""The parts of a model that are exported: functions of tensors with any number of rows, clips and tokens."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from clipbert.model import (
    ClipBertForCaptioning,
    ClipBertForMultipleChoice,
    ClipBertForOpenQA,
    ClipBertForPreTraining,
    ClipBertForRetrieval,
)
from clipbert.model.losses import aggregate

Axes = dict[int, str]
Shape = tuple[int, ...]
BATCH, CLIPS, LENGTH = "batch", "clips", "length"
MOST = {BATCH: 65536, CLIPS: 1024}  # bounds that torch.export wants; LENGTH is bounded by the position embeddings
SIZES = ((2, 3, 9), (1, 1, 2), (3, 2, 17))  # batch, clips, length: the first traces, all are compared
ROW_INPUTS: dict[str, Axes] = {"visual_embeds": {0: BATCH, 1: CLIPS}, "input_ids": {0: BATCH, 1: LENGTH}}
MASK_INPUT: dict[str, Axes] = {"attention_mask": {0: BATCH, 1: LENGTH}}


class _Function(nn.Module):
    """Module that calls a function of a model, so that an export contains the weights the function uses."""

    def __init__(self, model: nn.Module, function: Callable[..., Any]) -> None:
        super().__init__()
        self.model, self.function = model, function

    def forward(self, *inputs: Tensor) -> Any:
        return self.function(self.model, *inputs)


@dataclass(frozen=True)
class Part:
    """Part of a model.

    Attributes:
        name: of its file, without an ending.
        about: what it computes, in a sentence.
        module: takes the inputs in their order.
        inputs: names and dynamic axes.
        outputs: names and shapes, as a reader would write them.
        make_inputs: returns random inputs for a number of rows, of clips and a length of texts.
    """

    name: str
    about: str
    module: nn.Module
    inputs: dict[str, Axes]
    outputs: dict[str, str]
    make_inputs: Callable[[int, int, int], tuple[Tensor, ...]] = field(repr=False)


def export_parts(model: Any, processor: Any) -> list[Part]:
    """Return the parts of a task's model that together give its answers.

    Args:
        model: in evaluation mode.
        processor: of the model folder; frames of its size and number are exported.
    """
    compares = isinstance(model, ClipBertForRetrieval | ClipBertForPreTraining) and model.contrast is not None
    crosses = bool(model.config.cross_encoder)
    shape = (processor.frames_per_clip, 3, processor.image_size, processor.image_size)
    parts = [_vision(model, shape, compares, crosses)]
    if compares:
        parts.append(
            Part(
                "text_encoder",
                "Unit vectors of texts, comparable with `video_features`.",
                _Function(model, lambda own, ids, mask: own.get_text_features(ids, mask)),
                {"input_ids": {0: BATCH, 1: LENGTH}, **MASK_INPUT},
                {"text_features": "(batch, features)"},
                lambda batch, clips, length: _texts(model, batch, length),
            )
        )
    if crosses:
        generates = isinstance(model, ClipBertForCaptioning)
        parts.append(_decoder(model, shape) if generates else _cross_encoder(model, shape))
    return parts


def _vision(model: Any, shape: Shape, compares: bool, crosses: bool) -> Part:
    """Return the part from frames to visual tokens and, for a dual encoder, the vectors of videos.

    Args:
        shape: (T, 3, S, S) of a clip.
    """

    def encode(own: Any, pixel_values: Tensor) -> Any:
        embeds = own.encode_video(pixel_values)
        if not compares:
            return embeds
        features = own.get_video_features(embeds)
        return (embeds, features) if crosses else features

    outputs = {"visual_embeds": "(batch, clips, tokens, hidden)"} if crosses or not compares else {}
    if compares:
        outputs["video_features"] = "(batch, features)"
    return Part(
        "vision_encoder",
        f"Visual tokens of frames (batch, clips, {', '.join(map(str, shape))}), RGB, uint8.",
        _Function(model, encode),
        {"pixel_values": {0: BATCH, 1: CLIPS}},
        outputs,
        lambda batch, clips, length: (_random(0, 256, (batch, clips, *shape), torch.uint8),),
    )


def _cross_encoder(model: Any, frames: Shape) -> Part:
    """Return the part from visual tokens and texts to logits."""
    name, shape, logits = _logits_of(model)
    return Part(
        "cross_encoder",
        f"`{name}` of texts, each with the visual tokens of its video.",
        _Function(model, logits),
        ROW_INPUTS | MASK_INPUT,
        {name: shape},
        lambda batch, clips, length: (_embeds(model, (batch, clips, *frames)), *_texts(model, batch, length)),
    )


def _logits_of(model: Any) -> tuple[str, str, Callable[..., Any]]:
    """Return the name, the shape and the function of the logits of a class of models."""

    def outputs(own: Any, embeds: Tensor, ids: Tensor, mask: Tensor) -> Any:
        return own(visual_embeds=embeds, input_ids=ids, attention_mask=mask)

    if isinstance(model, ClipBertForOpenQA):
        return "answer_logits", "(batch, answers)", lambda own, *inputs: outputs(own, *inputs).logits
    if isinstance(model, ClipBertForRetrieval):
        return "match_logits", "(batch,)", lambda own, *inputs: own.match_scores(outputs(own, *inputs).logits)
    if isinstance(model, ClipBertForMultipleChoice):

        def of_options(own: Any, embeds: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
            per_clip, _ = own.clip_logits(None, ids, mask, None, embeds)
            return aggregate(per_clip, own.config.score_aggregation)[:, 0]

        return "option_logits", "(batch,), one for each option", of_options

    def of_match(own: Any, *inputs: Tensor) -> Tensor:
        logits = aggregate(outputs(own, *inputs).itm_logits, own.config.score_aggregation)
        return logits[:, 1] - logits[:, 0]

    return "match_logits", "(batch,)", of_match


def _decoder(model: ClipBertForCaptioning, frames: Shape) -> Part:
    """Return the part that gives the next token of texts of equal length."""

    def following(own: Any, embeds: Tensor, ids: Tensor) -> Tensor:
        logits: Tensor = own(visual_embeds=embeds, input_ids=ids, attention_mask=torch.ones_like(ids)).logits
        return logits[:, -1]

    return Part(
        "text_decoder",
        "Log-probabilities of the token that follows texts without padding.",
        _Function(model, following),
        dict(ROW_INPUTS),
        {"next_token_log_probs": "(batch, vocabulary)"},
        lambda batch, clips, length: (_embeds(model, (batch, clips, *frames)), _texts(model, batch, length)[0]),
    )


def similarity_constants(model: Any) -> tuple[float, float]:
    """Return the scale and the bias of a dual encoder: similarity = scale * (text . video) + bias."""
    zero = torch.zeros(1, 1)
    one = torch.ones(1, 1)
    bias = float(model.similarity(zero, zero).detach())
    return float(model.similarity(one, one).detach()) - bias, bias


def _texts(model: Any, batch: int, length: int) -> tuple[Tensor, Tensor]:
    """Return token ids and a mask (batch, length); the last text is shorter than the others."""
    extra = 0 if getattr(model, "pretrained", None) is None else model.pretrained.text_length
    ids = _random(0, _smallest_vocabulary(model), (batch, length + extra), torch.long)
    mask = torch.ones_like(ids)
    if batch > 1 and not extra:
        mask[-1, length // 2 + 1 :] = 0
    return ids, mask


def _smallest_vocabulary(model: Any) -> int:
    """Return a bound that the ids of both tokenizers of a pretrained dual encoder keep."""
    pretrained = getattr(model, "pretrained", None)
    own = int(model.config.vocab_size)
    return own if pretrained is None else min(own, int(pretrained.text_encoder.config.vocab_size))


@torch.no_grad()
def _embeds(model: Any, shape: Shape) -> Tensor:
    """Return visual tokens of random frames of a shape (B, K, T, 3, S, S)."""
    embeds: Tensor = model.encode_video(_random(0, 256, shape, torch.uint8))
    return embeds


def _random(low: int, high: int, shape: Shape, dtype: torch.dtype) -> Tensor:
    return torch.randint(low, high, shape, generator=torch.Generator().manual_seed(0), dtype=dtype)
