"""What makes the examples of a task: which texts it reads, and what a training step draws from them."""

import math
from abc import ABC, abstractmethod
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import pandas as pd

from clipbert.console import console
from clipbert.errors import ClipBertError
from clipbert.frame_cache import FrameCache
from clipbert.sampling.segments import Segment, item_key
from clipbert.tasks.batch import Batch, Example, Tokenize

ITEM = ["media", "start_s", "end_s"]


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

    @classmethod
    def texts_of_task(cls, texts: pd.DataFrame) -> tuple[pd.DataFrame, str]:
        """Return the texts that the task reads, and words about their media for messages (empty: of all media).

        Where training texts are about media of `media_kind`, only such texts count, in every split.
        """
        rows = texts[texts["kind"] == cls.kind]
        if "media_kind" in rows:
            preferred = rows[rows["media_kind"] == cls.media_kind]
            if (preferred["split"] == "train").any():
                return preferred, "" if len(preferred) == len(rows) else f" about {cls.media_kind}s"
        return rows, ""

    def read(self, texts: pd.DataFrame, split: str) -> list[Example]:
        """Return the task's texts of one split, grouped by video and segment, in the manifest's order.

        Raises:
            ClipBertError: the split has no texts of the task.
        """
        rows, about = self.texts_of_task(texts)
        rows = rows[rows["split"] == split]
        if rows.empty:
            raise ClipBertError(
                f"{self.name}: the manifest holds no {self.kind} texts{about} in split {split}. "
                f"Add some to data/ (see docs/tutorial/own-data.md), or leave this task's stages out."
            )
        described = _with_segments(texts[(texts["kind"] == "caption") & (texts["split"] == split)])
        captions = {item: list(group) for item, group in described.groupby(ITEM)["text"]}
        return [
            self._of_item(item, group, captions.get(item, []))
            for item, group in _with_segments(rows).groupby(ITEM, sort=True)
        ]

    def _of_item(self, item: Any, rows: pd.DataFrame, captions: list[str]) -> Example:
        media, start_s, end_s = item
        example = self.example(str(media), rows, captions)
        segment = Segment.of(start_s, None if end_s == math.inf else end_s)
        return example if segment is None else replace(example, segment=segment)

    def example(self, media: str, rows: pd.DataFrame, captions: list[str]) -> Example:
        """Return the example of one video or segment, from its rows of the manifest's table of texts."""
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


def _with_segments(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the rows with a `start_s` and an `end_s` each; those of a whole video are 0 and infinity."""
    whole = {"start_s": 0.0, "end_s": math.inf}
    return rows.assign(**{key: rows[key].fillna(value) if key in rows else value for key, value in whole.items()})


def texts_with_frames(texts: pd.DataFrame, cache: FrameCache) -> pd.DataFrame:
    """Return the texts that have candidate frames; print how many are left out.

    Texts have none where their media could not be decoded, or where no candidate frame lies in their segment.
    """
    without = texts["media"].isin(cache.quarantined)
    if without.any():
        console.print(
            f"{int(without.sum())} of {len(texts)} texts are left out: their {texts['media'][without].nunique()} media "
            f"could not be decoded (see {cache.path}/quarantine.jsonl)",
        )
    return _with_frames_in_segment(texts[~without], cache)


def _with_frames_in_segment(texts: pd.DataFrame, cache: FrameCache) -> pd.DataFrame:
    if "start_s" not in texts:
        return texts
    segments = [Segment.of(start, end) for start, end in zip(texts["start_s"], texts["end_s"], strict=True)]
    has_frames = [
        segment is None or media not in cache or len(segment.frames(cache[media].times)) > 0
        for media, segment in zip(texts["media"], segments, strict=True)
    ]
    if all(has_frames):
        return texts
    first = has_frames.index(False)
    times = cache[texts["media"].iloc[first]].times
    console.print(
        f"{has_frames.count(False)} of {len(texts)} texts are left out: no candidate frame lies in their segment. The "
        f"first is {item_key(texts['media'].iloc[first], segments[first])}, a video with {len(times)} candidate frames "
        f"up to {times[-1]:.1f} s. `clipbert validate` (check segment_frames) says which frames.fps and "
        "frames.max_frames are enough.",
    )
    return texts[np.asarray(has_frames)]


def training_texts(texts: pd.DataFrame) -> list[str]:
    """Return the distinct texts of the training split, sorted: captions, questions, answers and options."""
    rows = texts[texts["split"] == "train"]
    found = {*rows["text"], *rows["answer"].dropna()}
    for column in ("options", "answers"):
        if column in rows:
            found.update(text for several in rows[column].dropna() for text in several)
    return sorted(text for text in found if text)
