"""The data that tasks pass around: examples, training batches, encoded videos and tables of predictions."""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Protocol

import pandas as pd
import torch
from torch import Tensor

from clipbert.model.inputs import can_read_values
from clipbert.model.losses import IGNORED
from clipbert.sampling.segments import Segment, item_key

Predictions = pd.DataFrame  # one row per test item


@dataclass(frozen=True)
class Example:
    """One video, or one segment of it, with the texts of a task that belong to it: consecutive rows of a batch."""

    media: str
    ids: list[str]
    texts: list[str]
    answers: list[str]
    answer_types: list[str]
    captions: list[str] = field(default_factory=list)  # of the same video, if the data has any
    options: list[list[str]] = field(default_factory=list)  # multiple choice: of each question
    right: list[int] = field(default_factory=list)  # multiple choice: the index of the right option
    scores: list[dict[str, float]] = field(default_factory=list)  # image QA: the score of each answer to a question
    segment: Segment | None = None  # None: the whole video

    @property
    def key(self) -> str:
        """The name of the item that a text can be matched with: the media, and its segment if there is one."""
        return item_key(self.media, self.segment)

    @property
    def place(self) -> dict[str, Any]:
        """The columns of the predictions that name the item: `media`, and `start_s` and `end_s` of a segment.

        An `end_s` of None is the end of the video.
        """
        return {"media": self.media} | ({} if self.segment is None else self.segment.columns())


@dataclass(frozen=True)
class Batch:
    """B videos, K clips of T frames, N texts of L tokens; the texts of each video are consecutive, in video order."""

    pixel_values: Tensor | None  # (B, K, T, 3, H, W) uint8; None where there are features of the frames
    input_ids: Tensor  # (N, L)
    attention_mask: Tensor  # (N, L)
    texts_per_video: Tensor  # (B,), sum = N
    labels: Tensor  # (Q,), or (Q, answers) where each answer has a score
    ids: list[str]  # Q text ids
    texts_per_item: Tensor  # (Q,), sum = N: 1 for each text, the number of options for a multiple-choice question
    caption_ids: Tensor | None = None  # (B, L), one caption per video, if the task uses captions
    caption_mask: Tensor | None = None  # (B, L)
    mlm_labels: Tensor | None = None  # (N, L) pretraining: the ids of the masked tokens, -100 elsewhere
    media_keys: Tensor | None = None  # (B,) int64, equal for the same video in every process
    spans: Tensor | None = None  # (B, 2) seconds from start to end of what is shown of the video; None: all of each
    draws: Tensor | None = None  # (B, D) float64 in [0, 1): random numbers of a video's visit, equal in every process
    media: tuple[str, ...] = ()  # the keys of the B videos
    frame_features: Tensor | None = None  # (B, K, T, ...) of the feature cache, see `encode_features` of the model
    # `with_lengths` sets these, so that a step need not read them from a GPU.
    text_lengths: tuple[int, ...] | None = None  # (N,) tokens of each text; None: not known, or padding is in between
    caption_lengths: tuple[int, ...] | None = None  # (B,)
    mlm_positions: Tensor | None = None  # (P,) see `labeled_positions`
    # In a batch that several processes share, the fields above hold the videos of this process and their texts.
    videos_per_rank: tuple[int, ...] = ()
    all_input_ids: Tensor | None = None  # (N of all processes, L)
    all_attention_mask: Tensor | None = None
    all_text_lengths: tuple[int, ...] | None = None

    @property
    def frames(self) -> Tensor:
        """Pixels or features of the frames, (B, K, T, ...)."""
        frames = self.frame_features if self.pixel_values is None else self.pixel_values
        assert frames is not None
        return frames

    def encode_video(self, model: Any) -> Tensor:
        """Return the model's visual tokens (B, K, V, hidden) of the videos."""
        if self.frame_features is not None:
            encoded: Tensor = model.encode_features(self.frame_features)
        else:
            encoded = model.encode_video(self.pixel_values)
        return encoded

    @property
    def all_texts(self) -> tuple[Tensor, Tensor]:
        """`input_ids` and `attention_mask` (N, L) of the texts of all processes, in the batch's order."""
        if self.all_input_ids is None or self.all_attention_mask is None:
            return self.input_ids, self.attention_mask
        return self.all_input_ids, self.all_attention_mask

    def pair_lengths(self, unmatched: int) -> list[int] | None:
        """Return upper bounds of the lengths of each video's own text and of `unmatched` others (B * (1 + unmatched)).

        Unmatched texts are drawn on the device, so any text of the batch may be one. None where no lengths are known.
        """
        if self.text_lengths is None:
            return None
        longest = max(self.text_lengths if self.all_text_lengths is None else self.all_text_lengths)
        return [length for own in self.text_lengths for length in (own, *[longest] * unmatched)]

    def with_lengths(self, dual_text_length: int = 0) -> "Batch":
        """Return the batch with what a step must know of its texts on the host, to which its tensors still belong.

        Args:
            dual_text_length: number of last columns that hold the tokens of a pretrained dual encoder.
        """
        masks = {"text": self.attention_mask, "caption": self.caption_mask, "all_text": self.all_attention_mask}
        found: dict[str, Any] = {
            f"{name}_lengths": None if mask is None else _lengths(mask[:, : mask.shape[1] - dual_text_length])
            for name, mask in masks.items()
        }
        return replace(self, **found, mlm_positions=self.labeled_positions)

    @property
    def labeled_positions(self) -> Tensor | None:
        """Positions (P,) of the masked tokens in the flattened `mlm_labels`; None where finding them would wait."""
        if self.mlm_positions is not None or self.mlm_labels is None or not can_read_values(self.mlm_labels):
            return self.mlm_positions
        return (self.mlm_labels.flatten() != IGNORED).nonzero()[:, 0]

    def to(self, device: torch.device) -> "Batch":
        """Return the batch on another device."""
        moved: dict[str, Any] = {
            name: value.to(device, non_blocking=True) for name, value in vars(self).items() if isinstance(value, Tensor)
        }
        return replace(self, **moved)

    def pin_memory(self) -> "Batch":
        """Return the batch in page-locked memory, which a GPU copies from while it computes; DataLoader calls this."""
        pinned: dict[str, Any] = {
            name: value.pin_memory() for name, value in vars(self).items() if isinstance(value, Tensor)
        }
        return replace(self, **pinned)

    def of_videos(self, own: slice, items_per_video: Tensor) -> "Batch":
        """Return the batch with the texts of some of its videos; `frames` must hold only these videos already.

        Args:
            own: the positions of the videos among the B videos of all processes.
            items_per_video: (B,) how many of the Q items belong to each video.
        """
        texts, items = _rows(self.texts_per_video, own), _rows(items_per_video, own)
        cut = {"input_ids": texts, "attention_mask": texts, "mlm_labels": texts, "labels": items}
        cut |= {"texts_per_item": items, "ids": items}
        cut |= dict.fromkeys(
            ("texts_per_video", "caption_ids", "caption_mask", "media_keys", "spans", "draws", "media"), own
        )
        kept: dict[str, Any] = {
            name: getattr(self, name)[rows] for name, rows in cut.items() if getattr(self, name) is not None
        }
        return replace(self, **kept, all_input_ids=self.input_ids, all_attention_mask=self.attention_mask)


@dataclass(frozen=True)
class Encoded:
    """The items of a split after the vision half: visual_embeds (K, V, hidden) of each key of an `Example`."""

    keys: list[str]
    visual_embeds: list[Tensor]

    def of(self, keys: Iterable[str]) -> Tensor:
        """Return the visual tokens (M, K, V, hidden) of M items, in the given order."""
        return torch.stack([self.visual_embeds[self._positions[key]] for key in keys])

    @property
    def identical(self) -> bool:
        """Whether all items have the same visual tokens, as blank frames do: one of them then scores for all."""
        return len(self.visual_embeds) > 1 and len({id(embeds) for embeds in self.visual_embeds}) == 1

    @cached_property
    def _positions(self) -> dict[str, int]:
        return {name: index for index, name in enumerate(self.keys)}


class Tokenize(Protocol):
    """The tokenizer of a model."""

    def __call__(self, texts: list[str]) -> tuple[Tensor, Tensor]:
        """Return `input_ids` and `attention_mask` of texts, each (N, L), on the model's device."""

    def decode(self, ids: Tensor) -> list[str]:
        """Return the texts of token ids (N, L), without special tokens."""


def _rows(counts: Tensor, own: slice) -> slice:
    """Return the rows of some videos, given that each video has `counts` (B,) consecutive ones."""
    ends = [0, *counts.cumsum(0).tolist()]
    return slice(ends[own.start], ends[own.stop])


def _lengths(mask: Tensor) -> tuple[int, ...] | None:
    """Return the lengths of texts under a mask (N, L); None where padding is elsewhere than at their right."""
    if not bool(mask[:, 0].all()) or bool((mask.diff(dim=1) > 0).any()):
        return None
    return tuple(mask.sum(dim=1).tolist())
