"""What a task must say of itself, and the batch that all tasks share."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor

from clipbert.console import console
from clipbert.errors import ClipBertError
from clipbert.frames import FrameCache


@dataclass(frozen=True)
class Example:
    """One video with the texts of a task that belong to it (B = 1; its texts are consecutive rows of a batch)."""

    media: str
    ids: list[str]
    texts: list[str]
    answers: list[str]
    answer_types: list[str]
    captions: list[str] = field(default_factory=list)  # of the same video, where the data has any


@dataclass(frozen=True)
class Batch:
    """B videos, K clips of T frames, N texts of L tokens; the texts of a video stand together, in the videos' order."""

    pixel_values: Tensor  # (B, K, T, 3, H, W) uint8
    input_ids: Tensor  # (N, L)
    attention_mask: Tensor  # (N, L)
    texts_per_video: Tensor  # (B,), sum = N
    labels: Tensor  # (N,)
    ids: list[str]  # N text ids
    caption_ids: Tensor | None = None  # (B, L), one caption a video, where the task asks for them
    caption_mask: Tensor | None = None  # (B, L)

    def to(self, device: torch.device) -> "Batch":
        """The same batch on another device."""
        moved: dict[str, Any] = {
            name: value.to(device, non_blocking=True) for name, value in vars(self).items() if isinstance(value, Tensor)
        }
        return replace(self, **moved)


@dataclass(frozen=True)
class Encoded:
    """The videos of a split after the vision half: visual_embeds (K, V, hidden) of each media."""

    media: list[str]
    visual_embeds: list[Tensor]


Tokenize = Callable[[list[str]], tuple[Tensor, Tensor]]
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


class Task(ABC):
    """Everything in which tasks differ."""

    name: ClassVar[str]
    kind: ClassVar[str]  # of the texts it reads in the manifest
    main_metric: ClassVar[str]  # higher is better: chooses the best epoch
    compared: ClassVar[tuple[str, ...]]  # metrics that are also told for blank frames
    plot: ClassVar[str]  # which of evaluate/plots.py's drawings shows its test items

    def __init__(self, params: Any) -> None:
        """`params` is the task's own section of params.yaml."""
        self.params = params

    def examples(self, texts: pd.DataFrame, split: str) -> list[Example]:
        """The texts of one split, grouped by video, in the manifest's order.

        Raises:
            ClipBertError: the split has none.
        """
        rows = texts[(texts["kind"] == self.kind) & (texts["split"] == split)]
        if rows.empty:
            raise ClipBertError(
                f"{self.name}: the manifest holds no {self.kind} texts in split {split}. "
                f"Add some to data/ (see docs/own-data.md), or leave this task's stages out."
            )
        captions = texts[(texts["kind"] == "caption") & (texts["split"] == split)].groupby("media")["text"].agg(list)
        return [
            Example(
                media=str(media),
                ids=group["id"].tolist(),
                texts=group["text"].tolist(),
                answers=group["answer"].fillna("").tolist(),
                answer_types=group["answer_type"].fillna("").tolist(),
                captions=captions.get(media, []),
            )
            for media, group in rows.groupby("media", sort=True)
        ]

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
    def labels(self, example: Example, chosen: list[int], config: Any) -> list[int]:
        """The label of each drawn text."""

    @abstractmethod
    def loss(self, model: Any, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """The scalar to minimise, and its named parts for the log."""

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

    @staticmethod
    @abstractmethod
    def words(row: dict[str, Any]) -> list[str]:
        """What a report says beside the frames of one prediction, the text first; empty lines are left out."""

    def validation(self, examples: list[Example]) -> list[list[Example]]:
        """Groups of validation examples that are predicted one by one: retrieval keeps its galleries small here."""
        return [examples]


def contrastive_loss(
    model: Any, visual_embeds: Tensor, input_ids: Tensor, attention_mask: Tensor
) -> tuple[Tensor, Tensor]:
    """The symmetric in-batch loss of B texts and their B videos, each alone through the one encoder, and the scaled
    similarities (B texts, B videos) behind it."""
    text = model.text_features(input_ids, attention_mask)
    likeness = model.similarity(text, model.video_features(visual_embeds))
    truth = torch.arange(len(likeness), device=likeness.device)
    return (F.cross_entropy(likeness, truth) + F.cross_entropy(likeness.T, truth)) / 2, likeness
