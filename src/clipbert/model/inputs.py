"""Input checks of the models; each error names the argument, its shape and what was expected."""

import logging
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from clipbert.model.configuration import ClipBertConfig

logger = logging.getLogger(__name__)
_warned: set[str] = set()


def can_read_values(values: Tensor) -> bool:
    """Return whether a check may read the values of a tensor.

    On a GPU, reading blocks until all queued work is done, which would slow each training step; there the values are
    checked only with gradients disabled. The data loader of a training makes valid values. An export has
    no values to read.
    """
    if torch.compiler.is_exporting():
        return False
    kind = values.device.type
    return kind == "cpu" or (kind != "meta" and not torch.is_grad_enabled())


def check_tensors(device: torch.device | None, **values: object) -> None:
    """Check that arguments are tensors on one device; None is an omitted argument.

    Args:
        device: of the model; None or "meta": unknown, the arguments are compared with each other.
        values: the arguments by name.

    Raises:
        ValueError: naming the argument, its type or device, and what was expected.
    """
    if device is not None and device.type == "meta":
        device = None
    for name, value in values.items():
        if value is None:
            continue
        if not isinstance(value, Tensor):
            raise ValueError(f"{name} is of type {type(value).__name__}: expected a torch tensor.")
        if device is None:
            device = value.device
        if value.device != device:
            raise ValueError(f"{name} is on {value.device}: expected {device}, like the model and its other inputs.")


def check_pixel_values(pixel_values: Tensor) -> None:
    """Check that frames are (B videos, K clips, T frames, 3, H, W), uint8 or floating point.

    Floating-point values that do not look like 0 to 255 give a warning, once per process.

    Raises:
        ValueError: another rank, channel order or dtype, an empty dimension, or NaN.
    """
    check_tensors(None, pixel_values=pixel_values)
    shape = tuple(pixel_values.shape)
    expected = "expected (videos, clips, frames, 3, height, width)"
    if pixel_values.ndim != 6:
        raise ValueError(f"pixel_values has shape {shape}: {expected}.")
    if shape[3] != 3:
        hint = " The channels look last: permute the frames to channels first." if shape[5] == 3 else ""
        raise ValueError(f"pixel_values has shape {shape}: {expected}.{hint}")
    if 0 in shape:
        raise ValueError(f"pixel_values has shape {shape}, with an empty dimension: {expected}.")
    if pixel_values.dtype != torch.uint8 and not pixel_values.is_floating_point():
        raise ValueError(f"pixel_values has type {pixel_values.dtype}: expected uint8 or floating point, 0 to 255.")
    if pixel_values.is_floating_point() and can_read_values(pixel_values):
        low, high = (float(bound) for bound in pixel_values.detach().aminmax())
        if math.isnan(low) or math.isnan(high):
            raise ValueError("pixel_values holds nan: expected 0 to 255.")
        if low < 0 or high > 255:
            _warn_once(
                "normalized", f"pixel_values holds {low:g} to {high:g}: expected 0 to 255; the model normalizes them."
            )
        elif 0 < high <= 1:
            _warn_once(
                "fractions", f"pixel_values holds {low:g} to {high:g}: expected 0 to 255; multiply 0 to 1 by 255."
            )


def _warn_once(kind: str, message: str) -> None:
    """Warn once per process: other software may scale pixels differently on purpose."""
    if kind not in _warned:
        _warned.add(kind)
        logger.warning("%s This warning is shown once.", message)


def check_one_of(pixel_values: Tensor | None, visual_embeds: Tensor | None) -> None:
    """Check that videos are given in exactly one form.

    Raises:
        ValueError: both or none.
    """
    if (pixel_values is None) == (visual_embeds is None):
        raise ValueError("pixel_values and visual_embeds: exactly one of them must be given.")


def check_frame_features(frame_features: Tensor, channels: int, maps: bool) -> None:
    """Check features of frames, (B videos, K clips, T frames, channels), with `maps` followed by (h, w).

    Raises:
        ValueError: another shape or type.
    """
    check_tensors(None, frame_features=frame_features)
    shape = tuple(frame_features.shape)
    rank, cells = (6, ", rows, columns") if maps else (4, "")
    if len(shape) != rank or shape[3] != channels or 0 in shape or not frame_features.is_floating_point():
        raise ValueError(
            f"frame_features has shape {shape} and type {frame_features.dtype}: expected floating point (videos, "
            f"clips, frames, {channels}{cells}), the features of this model's backbone."
        )


def check_visual_embeds(visual_embeds: Tensor, hidden_size: int) -> None:
    """Check that visual tokens are (B videos, K clips, V tokens, hidden).

    Raises:
        ValueError: another rank or width.
    """
    check_tensors(None, visual_embeds=visual_embeds)
    shape = tuple(visual_embeds.shape)
    if visual_embeds.ndim != 4 or shape[3] != hidden_size or 0 in shape:
        raise ValueError(f"visual_embeds has shape {shape}: expected (videos, clips, tokens, {hidden_size}).")


def check_text(input_ids: Tensor, attention_mask: Tensor | None, config: ClipBertConfig) -> Tensor:
    """Check token ids (N texts, L) and their mask (N, L).

    Returns:
        the mask, all ones where it was None.

    Raises:
        ValueError: another rank, a mask of another shape, texts longer than the position embeddings, or a token id
            outside the vocabulary.
    """
    check_tensors(None, input_ids=input_ids, attention_mask=attention_mask)
    shape = tuple(input_ids.shape)
    if input_ids.ndim != 2 or 0 in shape:
        raise ValueError(f"input_ids has shape {shape}: expected (texts, length).")
    if shape[1] > config.max_position_embeddings:
        raise ValueError(
            f"input_ids has shape {shape}: expected a length of at most {config.max_position_embeddings}, "
            "config.max_position_embeddings."
        )
    low, high = (int(bound) for bound in input_ids.aminmax()) if can_read_values(input_ids) else (0, 0)
    if input_ids.is_floating_point() or input_ids.dtype == torch.bool or low < 0 or high >= config.vocab_size:
        raise ValueError(
            f"input_ids has type {input_ids.dtype} and holds {low} to {high}: expected integers from 0 to "
            f"{config.vocab_size - 1}. Is this the tokenizer the model was trained with?"
        )
    if attention_mask is None:
        return torch.ones_like(input_ids)
    if attention_mask.shape != input_ids.shape:
        raise ValueError(
            f"attention_mask has shape {tuple(attention_mask.shape)}: expected that of input_ids, {shape}."
        )
    wrong = (attention_mask != 0) & (attention_mask != 1)
    if can_read_values(wrong) and bool(wrong.any()):
        raise ValueError(
            f"attention_mask holds {attention_mask[wrong][0].item():g}: expected 1 for a token and 0 for padding."
        )
    return attention_mask


def check_text_lengths(text_lengths: Sequence[int], attention_mask: Tensor) -> None:
    """Check upper bounds of the lengths of texts under a mask (N, L): texts of at least one token, padded at the right.

    Raises:
        ValueError: not N bounds from 1 to L, or a text that is longer than its bound.
    """
    texts, width = attention_mask.shape
    if len(text_lengths) != texts:
        raise ValueError(f"text_lengths holds {len(text_lengths)} lengths: expected {texts}, one per text.")
    if not all(1 <= length <= width for length in text_lengths):
        wrong = next(length for length in text_lengths if not 1 <= length <= width)
        raise ValueError(f"text_lengths holds {wrong}: expected 1 to {width}, the length of input_ids.")
    if can_read_values(attention_mask):
        last = (attention_mask * torch.arange(1, width + 1, device=attention_mask.device)).amax(dim=1)
        beyond = (last > torch.tensor(text_lengths, device=last.device)).nonzero().flatten().tolist()
        if beyond:
            raise ValueError(
                f"text_lengths[{beyond[0]}] is {text_lengths[beyond[0]]}, but attention_mask has a token at position "
                f"{int(last[beyond[0]]) - 1} of this text: expected at least its number of positions up to there."
            )


def video_index(texts_per_video: Tensor | None, videos: int, texts: int) -> Tensor | None:
    """Return the index of each text's video (N,); None where every video has exactly one text.

    Raises:
        ValueError: counts of another shape, below zero, or that do not sum to the number of texts.
    """
    if texts_per_video is None:
        if texts != videos:
            raise ValueError(f"texts_per_video is missing: needed with {texts} texts for {videos} videos.")
        return None
    if not isinstance(texts_per_video, Tensor):
        raise ValueError(f"texts_per_video is of type {type(texts_per_video).__name__}: expected a torch tensor.")
    shape = tuple(texts_per_video.shape)
    if shape != (videos,):
        raise ValueError(f"texts_per_video has shape {shape}: expected ({videos},), one count per video.")
    looked = can_read_values(texts_per_video)
    kind = texts_per_video.dtype
    if kind.is_floating_point or kind == torch.bool or (looked and bool((texts_per_video < 0).any())):
        raise ValueError(f"texts_per_video is {texts_per_video.tolist()}: expected integers of 0 or more.")
    total = int(texts_per_video.sum()) if looked else texts
    if total != texts:
        raise ValueError(f"texts_per_video sums to {total}: expected {texts}, the number of texts in input_ids.")
    rows = torch.arange(videos, device=texts_per_video.device)
    return torch.repeat_interleave(rows, texts_per_video, output_size=texts)


def check_labels(
    labels: Tensor, name: str, expected: tuple[int, ...], classes: int, ignored: int | None = None
) -> None:
    """Check class indices: their shape, and that each is in [0, classes) or the ignored one.

    Raises:
        ValueError: naming the argument, its shape or its range, and what was expected.
    """
    check_tensors(None, **{name: labels})
    if tuple(labels.shape) != expected or labels.is_floating_point():
        raise ValueError(
            f"{name} has shape {tuple(labels.shape)} and type {labels.dtype}: expected integers of shape {expected}."
        )
    wrong = (labels < 0) | (labels >= classes)
    if ignored is not None:
        wrong &= labels != ignored
    if can_read_values(wrong) and bool(wrong.any()):
        also = "" if ignored is None else f" or {ignored} (ignored)"
        raise ValueError(f"{name} holds {int(labels[wrong][0])}: expected 0 to {classes - 1}{also}.")


def check_scores(labels: Tensor, name: str, expected: tuple[int, ...]) -> None:
    """Check soft scores: their shape, and that each is in [0, 1].

    Raises:
        ValueError: naming the argument, its shape, type or range, and what was expected.
    """
    check_tensors(None, **{name: labels})
    if tuple(labels.shape) != expected or not labels.is_floating_point():
        raise ValueError(
            f"{name} has shape {tuple(labels.shape)} and type {labels.dtype}: expected floating point scores of shape "
            f"{expected}, one per text and answer."
        )
    wrong = ~((labels >= 0) & (labels <= 1))  # so that NaN is wrong too
    if can_read_values(wrong) and bool(wrong.any()):
        raise ValueError(f"{name} holds {labels[wrong][0].item():g}: expected scores from 0 to 1.")


def check_options(options: Tensor, texts_per_video: Tensor | None, videos: int, texts: int) -> None:
    """Check the number of consecutive texts (questions,) that are the options of each question of one video.

    Raises:
        ValueError: counts of another shape, below 1, that do not sum to the number of texts, or a question whose
            options would belong to two videos.
    """
    name = "options_per_question"
    check_tensors(None, **{name: options})
    shape = tuple(options.shape)
    if options.ndim != 1 or options.is_floating_point():
        raise ValueError(f"{name} has shape {shape} and type {options.dtype}: expected integers of shape (questions,).")
    if not can_read_values(options):
        return
    if 0 in shape or bool((options < 1).any()):
        raise ValueError(f"{name} is {options.tolist()}: expected integers of 1 or more.")
    total = int(options.sum())
    if total != texts:
        raise ValueError(f"{name} sums to {total}: expected {texts}, the number of texts in input_ids.")
    owner = video_index(texts_per_video, videos, texts)
    if owner is None:
        owner = torch.arange(videos, device=options.device)
    last = options.cumsum(0).to(owner.device) - 1
    first = last - options.to(owner.device) + 1
    apart = owner[first] != owner[last]
    if bool(apart.any()):
        raise ValueError(
            f"{name} is {options.tolist()} and texts_per_video "
            f"{None if texts_per_video is None else texts_per_video.tolist()}: question {int(apart.nonzero()[0])} has "
            "options of two videos; expected all options of a question to be of one video."
        )
