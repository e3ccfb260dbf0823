"""What makes the examples of a task: which texts it reads, and what a training step draws from them."""

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import numpy as np
import pandas as pd

from clipbert.console import console
from clipbert.errors import ClipBertError
from clipbert.frame_cache import FrameCache
from clipbert.tasks.batch import Batch, Example, Tokenize


class Examples(ABC):
    """The examples of a task.

    Attributes:
        kind: the kind of the texts in the manifest: caption, open_qa or multiple_choice.
        media_kind: "video" or "image", the media that the task is for; texts about the other kind serve where the
            training split has none about this one.
        whole_vocabulary: whether a learned tokenizer reads all training texts of the data, not only the task's own.
    """

    kind: ClassVar[str]
    media_kind: ClassVar[str] = "video"
    whole_vocabulary: ClassVar[bool] = False

    def __init__(self, name: str, params: Any) -> None:
        """Args: `name` of the task, for messages; `params`: the task's section of params.yaml."""
        self.name, self.params = name, params

    def read(self, texts: pd.DataFrame, split: str) -> list[Example]:
        """Return the texts of one split, grouped by video, in the manifest's order.

        Where training texts are about media of `media_kind`, only such texts count, in every split.

        Raises:
            ClipBertError: the split has no texts of the task.
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
        """Return the example of one video, from its rows of the manifest's table of texts."""
        return Example(
            media=media,
            ids=rows["id"].tolist(),
            texts=rows["text"].tolist(),
            answers=rows["answer"].fillna("").tolist(),
            answer_types=rows["answer_type"].fillna("").tolist(),
            captions=captions,
        )

    def input_texts(self, example: Example, item: int) -> list[str]:
        """Return the model's input for one text of an example: the text, or in multiple choice one text per option."""
        return [example.texts[item]]

    def uses_captions(self, examples: list[Example]) -> bool:
        """Return whether a training step also needs a caption of each of its videos."""
        return False

    @abstractmethod
    def draw(self, example: Example, generator: np.random.Generator) -> list[int]:
        """Return the positions of the example's texts that enter the step in which its video is visited."""

    @abstractmethod
    def labels(self, example: Example, chosen: list[int], config: Any) -> list[Any]:
        """Return the label of each drawn text: an index, or a score for each of the model's answers."""

    def prepare(self, batch: Batch, seeds: list[int], tokenize: Tokenize, config: Any) -> Batch:
        """Return a training batch as the loss needs it, once its texts are tokens.

        Args:
            seeds: one per video, which depends on the run's seed, the epoch and the video alone.
        """
        return batch


def texts_with_frames(texts: pd.DataFrame, cache: FrameCache) -> pd.DataFrame:
    """Return the texts whose media could be decoded; print how many are left out."""
    without = texts["media"].isin(cache.quarantined)
    if without.any():
        console.print(
            f"{int(without.sum())} of {len(texts)} texts are left out: their {texts['media'][without].nunique()} media "
            f"could not be decoded (see {cache.path}/quarantine.jsonl)",
        )
    return texts[~without]


def training_texts(texts: pd.DataFrame) -> list[str]:
    """Return the distinct texts of the training split, sorted: captions, questions, answers and options."""
    rows = texts[texts["split"] == "train"]
    found = {*rows["text"], *rows["answer"].dropna()}
    for column in ("options", "answers"):
        if column in rows:
            found.update(text for several in rows[column].dropna() for text in several)
    return sorted(text for text in found if text)
