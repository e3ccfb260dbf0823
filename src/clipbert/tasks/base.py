"""What a task must say of itself, and the batch that all tasks share."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, ClassVar, Protocol

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from clipbert.config.schema import EvaluateParams
from clipbert.console import console
from clipbert.distributed.collectives import RankRows
from clipbert.errors import ClipBertError
from clipbert.frame_cache import FrameCache
from clipbert.model.losses import symmetric_contrastive_loss

VALIDATED_AT_ONCE = 64


@dataclass(frozen=True)
class Example:
    """One video with the texts of a task that belong to it (B = 1; its texts are consecutive rows of a batch)."""

    media: str
    ids: list[str]
    texts: list[str]
    answers: list[str]
    answer_types: list[str]
    captions: list[str] = field(default_factory=list)  # of the same video, where the data has any
    options: list[list[str]] = field(default_factory=list)  # multiple choice: of each question
    right: list[int] = field(default_factory=list)  # multiple choice: the position of the right option
    scores: list[dict[str, float]] = field(default_factory=list)  # image QA: what each answer of a question is worth


@dataclass(frozen=True)
class Batch:
    """B videos, K clips of T frames, N texts of L tokens; the texts of a video stand together, in the videos' order."""

    pixel_values: Tensor  # (B, K, T, 3, H, W) uint8
    input_ids: Tensor  # (N, L)
    attention_mask: Tensor  # (N, L)
    texts_per_video: Tensor  # (B,), sum = N
    labels: Tensor  # (Q,), or (Q, answers) where each answer has a score
    ids: list[str]  # Q text ids
    texts_per_item: Tensor  # (Q,), sum = N: 1 for each text, the number of options for a multiple-choice question
    caption_ids: Tensor | None = None  # (B, L), one caption a video, where the task asks for them
    caption_mask: Tensor | None = None  # (B, L)
    mlm_labels: Tensor | None = None  # (N, L) pretraining: the masked tokens' ids, -100 elsewhere
    media_keys: Tensor | None = None  # (B,) int64, the same for the same video in any process
    draws: Tensor | None = None  # (B, D) float64 in [0, 1): chance that belongs to a video's visit, not to a process
    media: tuple[str, ...] = ()  # of the B videos
    # Of a batch that several processes share, this one's videos and their texts are above.
    videos_per_rank: tuple[int, ...] = ()
    all_input_ids: Tensor | None = None  # (N of all processes, L)
    all_attention_mask: Tensor | None = None

    @property
    def all_texts(self) -> tuple[Tensor, Tensor]:
        """`input_ids` and `attention_mask` (N, L) of the texts of all processes, in the batch's order."""
        if self.all_input_ids is None or self.all_attention_mask is None:
            return self.input_ids, self.attention_mask
        return self.all_input_ids, self.all_attention_mask

    def to(self, device: torch.device) -> "Batch":
        """The same batch on another device."""
        moved: dict[str, Any] = {
            name: value.to(device, non_blocking=True) for name, value in vars(self).items() if isinstance(value, Tensor)
        }
        return replace(self, **moved)

    def pin_memory(self) -> "Batch":
        """The same batch in page-locked memory, from where a GPU copies while it computes; DataLoader calls this."""
        pinned: dict[str, Any] = {
            name: value.pin_memory() for name, value in vars(self).items() if isinstance(value, Tensor)
        }
        return replace(self, **pinned)

    def of_videos(self, own: slice, items_per_video: Tensor) -> "Batch":
        """The texts of some of the videos; `pixel_values` are those of these videos already.

        Args:
            own: of the B videos that the texts are about.
            items_per_video: (B,) how many of the Q items belong to each.
        """
        texts, items = _rows(self.texts_per_video, own), _rows(items_per_video, own)
        cut = {"input_ids": texts, "attention_mask": texts, "mlm_labels": texts, "labels": items}
        cut |= {"texts_per_item": items, "ids": items}
        cut |= dict.fromkeys(("texts_per_video", "caption_ids", "caption_mask", "media_keys", "draws", "media"), own)
        kept: dict[str, Any] = {
            name: getattr(self, name)[rows] for name, rows in cut.items() if getattr(self, name) is not None
        }
        return replace(self, **kept, all_input_ids=self.input_ids, all_attention_mask=self.attention_mask)


@dataclass(frozen=True)
class Encoded:
    """The videos of a split after the vision half: visual_embeds (K, V, hidden) of each media."""

    media: list[str]
    visual_embeds: list[Tensor]

    def of(self, media: Iterable[str]) -> Tensor:
        """Visual tokens (M, K, V, hidden) of M media, in the order asked for."""
        return torch.stack([self.visual_embeds[self._place[name]] for name in media])

    @property
    def identical(self) -> bool:
        """Whether all media have the same visual tokens, as blank frames do: one of them then scores for all."""
        return len(self.visual_embeds) > 1 and len({id(embeds) for embeds in self.visual_embeds}) == 1

    @cached_property
    def _place(self) -> dict[str, int]:
        return {name: index for index, name in enumerate(self.media)}


class Tokenize(Protocol):
    """The model's tokenizer."""

    def __call__(self, texts: list[str]) -> tuple[Tensor, Tensor]:
        """Texts to (input_ids, attention_mask), each (N, L), on the model's device."""

    def decode(self, ids: Tensor) -> list[str]:
        """Token ids (N, L) to texts, without special tokens."""


Predictions = pd.DataFrame


def texts_with_frames(texts: pd.DataFrame, cache: FrameCache) -> pd.DataFrame:
    """The texts (id, media, ...) without those whose media could not be decoded, which are counted and said."""
    without = texts["media"].isin(cache.quarantined)
    if without.any():
        console.print(
            f"{int(without.sum())} of {len(texts)} texts are left out: their {texts['media'][without].nunique()} media "
            f"could not be decoded (see {cache.path}/quarantine.jsonl)",
            markup=False,
        )
    return texts[~without]


def training_words(texts: pd.DataFrame) -> list[str]:
    """All that the training split says, of every kind: captions, questions, answers, options; sorted, each once."""
    rows = texts[texts["split"] == "train"]
    said = {*rows["text"], *rows["answer"].dropna()}
    for column in ("options", "answers"):
        if column in rows:
            said.update(text for several in rows[column].dropna() for text in several)
    return sorted(text for text in said if text)


def _rows(counts: Tensor, own: slice) -> slice:
    """The rows of some videos, where each has `counts` (B,) consecutive ones."""
    ends = [0, *counts.cumsum(0).tolist()]
    return slice(ends[own.start], ends[own.stop])


class Task(ABC):
    """Everything in which tasks differ."""

    name: ClassVar[str]
    kind: ClassVar[str]  # of the texts it reads in the manifest
    media_kind: ClassVar[str] = "video"  # or "image": what it is for; the other kind serves where there is none
    main_metric: ClassVar[str]  # higher is better: chooses the best epoch
    compared: ClassVar[tuple[str, ...]]  # metrics that are also told for blank frames
    whole_vocabulary: ClassVar[bool] = False  # its tokenizer learns all training texts of the data, not its own alone
    writes_text: ClassVar[bool] = False  # whether it generates texts with the model's tokenizer
    plot: ClassVar[str]  # which of evaluation/plots.py's drawings shows its test items
    groups: ClassVar[tuple[str, str]] = ("Right", "Wrong")  # what a report calls the items that `right` tells apart

    def __init__(self, params: Any) -> None:
        """`params` is the task's own section of params.yaml."""
        self.params = params

    def examples(self, texts: pd.DataFrame, split: str) -> list[Example]:
        """The texts of one split, grouped by video, in the manifest's order.

        Where training texts are about media of the kind that the task is for (`media_kind`), only such texts count in
        every split; otherwise all of them.

        Raises:
            ClipBertError: the split has none.
        """
        rows, about = texts[texts["kind"] == self.kind], ""
        if "media_kind" in rows:
            preferred = rows[rows["media_kind"] == self.media_kind]
            if (preferred["split"] == "train").any():
                rows, about = preferred, "" if len(preferred) == len(rows) else f" about {self.media_kind}s"
        rows = rows[rows["split"] == split]
        if rows.empty:
            raise ClipBertError(
                f"{self.name}: the manifest holds no {self.kind} texts{about} in split {split}. "
                f"Add some to data/ (see docs/tutorial/own-data.md), or leave this task's stages out."
            )
        captions = texts[(texts["kind"] == "caption") & (texts["split"] == split)].groupby("media")["text"].agg(list)
        return [
            self.example(str(media), group, captions.get(media, []))
            for media, group in rows.groupby("media", sort=True)
        ]

    def example(self, media: str, rows: pd.DataFrame, captions: list[str]) -> Example:
        """The texts of one video, rows of the manifest's texts table."""
        return Example(
            media=media,
            ids=rows["id"].tolist(),
            texts=rows["text"].tolist(),
            answers=rows["answer"].fillna("").tolist(),
            answer_types=rows["answer_type"].fillna("").tolist(),
            captions=captions,
        )

    def wording(self, example: Example, item: int) -> list[str]:
        """What the model reads of one of an example's texts: the text, or in multiple choice one text an option."""
        return [example.texts[item]]

    def items(self, examples: list[Example]) -> int:
        """How many rows `predict` gives for these examples."""
        return sum(len(example.texts) for example in examples)

    @abstractmethod
    def model_class(self) -> type[Any]:
        """The ClipBertFor... class that is trained."""

    @abstractmethod
    def config_fields(self, train: list[Example]) -> dict[str, Any]:
        """What the training data or the task's parameters decide in the model's configuration."""

    def uses_captions(self, examples: list[Example]) -> bool:
        """Whether a step also needs a caption of each of its videos."""
        return False

    @abstractmethod
    def draw(self, example: Example, generator: np.random.Generator) -> list[int]:
        """Which of a video's texts enter the step that visits it."""

    @abstractmethod
    def labels(self, example: Example, chosen: list[int], config: Any) -> list[Any]:
        """The label of each drawn text: an index, or a score for each of the model's answers."""

    def prepare(self, batch: Batch, seeds: list[int], tokenize: Tokenize, config: Any) -> Batch:
        """A last change of a training batch once its texts are tokens; `seeds`: of each video's visit in this epoch."""
        return batch

    @abstractmethod
    def loss(self, model: Any, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """The scalar to minimise, and its named parts for the log.

        In a process group the average of the ranks' losses is that of the whole batch: a mean over this rank's rows
        goes through `scale_loss_for_ddp`, and what compares rows has all of them.
        """

    @abstractmethod
    def predict(
        self, model: Any, videos: Encoded, examples: list[Example], tokenize: Tokenize, batch_size: int
    ) -> Iterator[dict[str, Any]]:
        """One row a test item: item_id, score, chance, and what a reader of the report wants to see."""

    @abstractmethod
    def metrics(self, items: Predictions) -> dict[str, float]:
        """Flat metrics under `NAME/...`, percentages as 0 to 100."""

    @abstractmethod
    def baselines(self, items: Predictions, train: list[Example]) -> dict[str, float]:
        """What chance and the trivial predictor reach on the same items, under `NAME/...`."""

    def baseline_scores(self, items: Predictions, train: list[Example]) -> dict[str, np.ndarray]:
        """Return the score of each test item by each trivial baseline besides chance and blank frames.

        Returns:
            name, a key of `headlines.BASELINES`, to scores (items,) from 0 to 1.
        """
        return {}

    @staticmethod
    def right(items: Predictions) -> "pd.Series[bool]":
        """Which test items a report shows as examples of what went well."""
        return items["score"] >= 0.5

    @staticmethod
    @abstractmethod
    def words(row: dict[str, Any]) -> list[str]:
        """What a report says beside the frames of one prediction, the text first; empty lines are left out."""

    def measured(self, params: EvaluateParams) -> "Task":
        """The task whose `predict` is what section evaluate asks for."""
        return self

    def validation(self, examples: list[Example]) -> list[list[Example]]:
        """Groups of validation examples that are predicted one by one, by one process each; retrieval's are its
        galleries."""
        groups = np.array_split(np.arange(len(examples)), -(-len(examples) // VALIDATED_AT_ONCE))
        return [[examples[int(i)] for i in group] for group in groups]


class QuestionTask(Task):
    """A task of questions, `params.questions_per_video` of a video in a step; where all training videos have captions,
    with the contrastive term of `params.caption_weight`."""

    def uses_captions(self, examples: list[Example]) -> bool:
        return self.params.caption_weight > 0 and all(example.captions for example in examples)

    def draw(self, example: Example, generator: np.random.Generator) -> list[int]:
        count = min(len(example.texts), self.params.questions_per_video)
        return [int(i) for i in generator.permutation(len(example.texts))[:count]]


def contrastive_loss(
    model: Any, visual_embeds: Tensor, input_ids: Tensor, attention_mask: Tensor, batch: Batch
) -> tuple[Tensor, Tensor]:
    """The symmetric contrastive loss of texts and their videos, each alone through the one encoder.

    In a process group it is over the texts and videos of all ranks, and the same on each of them (`RankRows`).

    Args:
        visual_embeds: (B, K, V, hidden) of this rank's videos.
        input_ids, attention_mask: (B, L), one text a video.
        batch: where these come from. A video that comes twice in it, here or on another rank, is no negative.

    Returns:
        the loss, and the scaled similarities (B texts of all ranks, B videos of this rank).
    """
    text, video = model.get_text_and_video_features(input_ids, attention_mask, visual_embeds)
    ranks = RankRows(batch.videos_per_rank)
    similarity = model.similarity(ranks.gather(text), ranks.gather(video))
    keys = batch.media_keys
    return symmetric_contrastive_loss(similarity, None if keys is None else ranks.gather(keys)), similarity[
        :, ranks.own
    ]


def with_captions(
    loss: Tensor, weight: float, model: Any, visual_embeds: Tensor, batch: Batch
) -> tuple[Tensor, dict[str, Tensor]]:
    """`loss` plus `weight` times the contrastive term of the batch's videos and their captions, and that term for the
    log; where the batch has no captions, `loss` as it is and nothing."""
    if batch.caption_ids is None or batch.caption_mask is None:
        return loss, {}
    contrastive, _ = contrastive_loss(model, visual_embeds, batch.caption_ids, batch.caption_mask, batch)
    return loss + weight * contrastive, {"contrastive": contrastive.detach()}
