"""What the manifest must hold before anything is made from it: one expectation a line, each with what to do."""

from dataclasses import dataclass
from typing import Any

import great_expectations.expectations as gxe
import pandas as pd

from clipbert.data.manifest import KINDS, SPLITS
from clipbert.params import ValidateParams

ROW_COLUMNS = {"videos": ["media", "split"], "texts": ["id", "kind", "media", "split"], "splits": ["split"]}

RUN_INGEST = "The manifest is damaged: make it again with clipbert ingest."


@dataclass(frozen=True)
class Check:
    """One expectation over one table, and what a person does when it fails."""

    table: str
    expectation: Any
    remedy: str


def tables(videos: pd.DataFrame, texts: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """The tables the checks look at: the manifest's two with helper columns, and the media of each split.

    videos gains `splits_of_file` (splits in which a file of the same hash lies). texts gains `media_known`,
    `splits_of_media`, `text_chars`, `answer_chars` and `options_count`, and loses `options`.
    """
    used = videos.dropna(subset=["split"])
    videos = videos.assign(
        splits_of_file=videos["sha256"].map(used.groupby("sha256")["split"].nunique()).fillna(0).astype("int64")
    )
    texts = texts.assign(
        media_known=texts["media"].isin(videos["media"]),
        splits_of_media=texts.groupby("media")["split"].transform("nunique"),
        text_chars=texts["text"].str.len(),
        answer_chars=texts["answer"].fillna("").str.strip().str.len(),
        options_count=texts["options"].map(lambda options: 0 if options is None else len(options)),
    ).drop(columns="options")
    counts = used["split"].value_counts()
    splits = pd.DataFrame({"split": list(SPLITS), "media_count": [int(counts.get(split, 0)) for split in SPLITS]})
    return {"videos": videos, "texts": texts, "splits": splits}


def checks(params: ValidateParams) -> list[Check]:
    """The gate, in the order in which failures are reported."""
    return [*_splits(params), *_videos(), *_texts(params)]


def _splits(params: ValidateParams) -> list[Check]:
    return [
        Check(
            "splits",
            gxe.ExpectColumnValuesToBeBetween(column="media_count", min_value=params.min_videos_per_split),
            "A split has too few media: give more texts that split, or lower validate.min_videos_per_split.",
        ),
        Check(
            "texts",
            gxe.ExpectColumnValuesToBeInSet(column="splits_of_media", value_set=[1]),
            "A video has texts in several splits, so the model would be tested on what it was trained on: give all "
            "texts of one video the same split.",
        ),
        Check(
            "videos",
            gxe.ExpectColumnValuesToBeBetween(column="splits_of_file", max_value=1),
            "The same file lies in several splits under different names: remove the copies, or give their texts one "
            "split.",
        ),
    ]


def _videos() -> list[Check]:
    required = ("media", "kind", "sha256", "bytes", "container", "codec", "width", "height", "fps", "duration_s")
    return [
        Check("videos", gxe.ExpectColumnValuesToBeUnique(column="media"), RUN_INGEST),
        *(
            Check("videos", gxe.ExpectColumnValuesToNotBeNull(column=column), RUN_INGEST)
            for column in (*required, "rotation", "path_taken")
        ),
        Check("videos", gxe.ExpectColumnValuesToBeInSet(column="kind", value_set=["video", "image"]), RUN_INGEST),
        Check("videos", gxe.ExpectColumnValuesToBeInSet(column="split", value_set=list(SPLITS)), RUN_INGEST),
        *(
            Check(
                "videos",
                gxe.ExpectColumnValuesToBeBetween(column=column, min_value=0, strict_min=True),
                f"A file without {meaning}: remove it from data/ or encode it again.",
            )
            for column, meaning in (
                ("duration_s", "a duration"),
                ("width", "a width"),
                ("height", "a height"),
                ("fps", "a frame rate"),
                ("num_frames", "a frame"),
                ("bytes", "content"),
            )
        ),
    ]


def _texts(params: ValidateParams) -> list[Check]:
    choice, question = 'kind=="multiple_choice"', 'kind=="open_qa"'
    return [
        Check(
            "texts",
            gxe.ExpectCompoundColumnsToBeUnique(column_list=["kind", "id"]),
            "Two texts of a kind have the same id: give each its own.",
        ),
        *(
            Check("texts", gxe.ExpectColumnValuesToNotBeNull(column=column), RUN_INGEST)
            for column in ("id", "kind", "media", "text", "split")
        ),
        Check("texts", gxe.ExpectColumnValuesToBeInSet(column="kind", value_set=list(KINDS)), RUN_INGEST),
        Check(
            "texts",
            gxe.ExpectColumnValuesToBeInSet(column="split", value_set=list(SPLITS)),
            f"An unknown split: write one of {', '.join(SPLITS)}.",
        ),
        Check("texts", gxe.ExpectColumnValuesToBeInSet(column="media_known", value_set=[True]), RUN_INGEST),
        Check(
            "texts",
            gxe.ExpectColumnValuesToBeBetween(column="text_chars", min_value=1, max_value=params.max_text_chars),
            f"A caption or question is empty or longer than validate.max_text_chars = {params.max_text_chars}: "
            "shorten it, or raise the limit.",
        ),
        Check(
            "texts",
            gxe.ExpectColumnValuesToBeBetween(
                column="answer_chars", min_value=1, row_condition=question, condition_parser="pandas"
            ),
            "An open question without an answer: write it.",
        ),
        Check(
            "texts",
            gxe.ExpectColumnValuesToNotBeNull(column="answer_index", row_condition=choice, condition_parser="pandas"),
            "A multiple-choice question without an answer: write the position of the right option, from 0.",
        ),
        Check(
            "texts",
            gxe.ExpectColumnValuesToBeBetween(column="answer_index", min_value=0),
            "A negative answer: write the position of the right option, from 0.",
        ),
        Check(
            "texts",
            gxe.ExpectColumnPairValuesAToBeGreaterThanB(
                column_A="options_count", column_B="answer_index", ignore_row_if="either_value_is_missing"
            ),
            "An answer beyond the last option: write the position of the right option, from 0.",
        ),
    ]
