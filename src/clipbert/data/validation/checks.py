"""Checks of the manifest: named Great Expectations checks, each with a remedy."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import great_expectations.expectations as gxe

from clipbert.config.data import ValidateParams
from clipbert.data.annotations import SPLITS
from clipbert.data.manifest import KINDS
from clipbert.sampling.segments import END_TOLERANCE_S, Coverage

ROW_COLUMNS = {
    "videos": ["media", "split"],
    "texts": ["id", "kind", "media", "split"],
    "splits": ["split"],
    "answers": ["answer", "id", "media", "split"],
    "sizes": ["kind", "train_media", "needed"],
    "truncation": ["kind", "split", "texts", "truncated", "identical"],
    "drift": ["measure", "meaning"],
    "segments": ["id", "media", "split", "start_s", "end_s", "duration_s", "frames"],
}

RUN_INGEST = "The manifest is damaged: make it again with clipbert ingest."
BETWEEN, IN_SET = gxe.ExpectColumnValuesToBeBetween, gxe.ExpectColumnValuesToBeInSet
NOT_NULL = gxe.ExpectColumnValuesToNotBeNull
VIDEO = {"row_condition": 'kind=="video"', "condition_parser": "pandas"}
CHOICE = {"row_condition": 'kind=="multiple_choice"', "condition_parser": "pandas"}

Rule = tuple[str, str, Any, str]


@dataclass(frozen=True)
class Check:
    """Expectation on one table, with the name of its check in validate.severity and a remedy."""

    name: str
    table: str
    expectation: Any
    remedy: str
    severity: str


def checks(params: ValidateParams, covered: Coverage | None = None) -> list[Check]:
    """Return the checks in the order in which failures are reported; those of segments need `covered`."""
    severities = params.severity.model_dump(by_alias=True)
    rules = (
        *_splits(params),
        *_schema(),
        *_media_values(),
        *_odd(params),
        *_texts(params),
        *_truncation(params),
        *_answers(params),
        *_segments(covered),
        *_drift(),
    )
    found = []
    for name, table, expectation, remedy in rules:
        expectation.severity = "critical" if severities[name] == "fail" else "warning"
        found.append(Check(name, table, expectation, remedy, severities[name]))
    return found


def _splits(params: ValidateParams) -> Iterator[Rule]:
    yield (
        "split_sizes",
        "splits",
        BETWEEN(column="media_count", min_value=params.min_videos_per_split),
        "A split has too few media: assign more texts to it, or lower validate.min_videos_per_split.",
    )
    yield (
        "split_by_media",
        "texts",
        IN_SET(column="splits_of_media", value_set=[1]),
        "A video has texts in several splits, so the model would be tested on what it was trained on: give all "
        "texts of one video the same split.",
    )
    yield (
        "split_by_file",
        "videos",
        BETWEEN(column="splits_of_file", max_value=1),
        "The same file is in several splits under different names: remove the copies, or assign "
        "their texts to one split.",
    )
    yield (
        "near_duplicates",
        "videos",
        BETWEEN(column="near_duplicates", max_value=0, mostly=1 - params.max_near_duplicates),
        f"More than validate.max_near_duplicates = {params.max_near_duplicates:g} of the val and test media are "
        "near-duplicates of another split: check the pairs in near_duplicates.csv, remove one of each or assign both "
        "to one split; if they are different videos, lower validate.max_hash_distance or raise "
        "validate.max_near_duplicates.",
    )


def _schema() -> Iterator[Rule]:
    required = ("media", "kind", "sha256", "bytes", "container", "codec", "width", "height", "fps", "duration_s")
    yield "ids", "videos", gxe.ExpectColumnValuesToBeUnique(column="media"), RUN_INGEST
    yield (
        "ids",
        "texts",
        gxe.ExpectCompoundColumnsToBeUnique(column_list=["kind", "id"]),
        "Two texts of a kind have the same id: give each its own.",
    )
    for column in (*required, "rotation", "path_taken"):
        yield "schema", "videos", NOT_NULL(column=column), RUN_INGEST
    for column in ("id", "kind", "media", "text", "split"):
        yield "schema", "texts", NOT_NULL(column=column), RUN_INGEST
    yield "schema", "videos", IN_SET(column="kind", value_set=["video", "image"]), RUN_INGEST
    yield "schema", "texts", IN_SET(column="kind", value_set=list(KINDS)), RUN_INGEST
    yield "split_sizes", "videos", IN_SET(column="split", value_set=list(SPLITS)), RUN_INGEST
    yield (
        "split_sizes",
        "texts",
        IN_SET(column="split", value_set=list(SPLITS)),
        f"An unknown split: use one of {', '.join(SPLITS)}.",
    )
    yield "media_exists", "texts", IN_SET(column="media_known", value_set=[True]), RUN_INGEST


def _media_values() -> Iterator[Rule]:
    for column, meaning in (
        ("duration_s", "a duration"),
        ("width", "a width"),
        ("height", "a height"),
        ("fps", "a frame rate"),
        ("num_frames", "a frame"),
        ("bytes", "content"),
    ):
        yield (
            "media_values",
            "videos",
            BETWEEN(column=column, min_value=0, strict_min=True),
            f"A file without {meaning}: remove it from data/ or encode it again.",
        )


def _odd(params: ValidateParams) -> Iterator[Rule]:
    some: dict[str, Any] = {"mostly": 1 - params.max_odd}
    more = f"More than validate.max_odd = {params.max_odd:g} of the media "
    yield (
        "durations",
        "videos",
        BETWEEN(column="duration_s", min_value=params.min_duration_s, max_value=params.max_duration_s, **VIDEO, **some),
        more + "are shorter than validate.min_duration_s or longer than validate.max_duration_s: cut or remove them.",
    )
    yield (
        "frame_rates",
        "videos",
        BETWEEN(column="fps", min_value=params.min_fps, max_value=params.max_fps, **VIDEO, **some),
        more + "have a frame rate outside validate.min_fps to validate.max_fps: check how they were made.",
    )
    yield (
        "resolutions",
        "videos",
        BETWEEN(column="short_side", min_value=params.min_side, **some),
        more + "have a shorter side than validate.min_side pixels: fetch them in a larger size or remove them.",
    )
    yield (
        "black",
        "videos",
        BETWEEN(column="brightness", min_value=params.min_brightness, **some),
        more + "are darker than validate.min_brightness: a model learns nothing from black pictures; remove them.",
    )
    yield (
        "frozen",
        "videos",
        BETWEEN(column="motion", min_value=params.min_motion, **VIDEO, **some),
        more + "move less than validate.min_motion: still pictures, or stuck recordings; check and remove them.",
    )
    yield (
        "damaged",
        "videos",
        gxe.ExpectColumnValuesToBeNull(column="damage", **some),
        more + "are damaged (column damage of the manifest): fetch or encode them again.",
    )
    yield (
        "remarks",
        "videos",
        gxe.ExpectColumnValuesToBeNull(column="remarks"),
        "Media whose frames differ from what a player shows (interlaced, HDR, several sizes, animated images; "
        "docs/concepts/media.md describes the treatment of each): convert them if that matters.",
    )


def _texts(params: ValidateParams) -> Iterator[Rule]:
    yield (
        "text_empty",
        "texts",
        BETWEEN(column="letters", min_value=1),
        "A caption or question without a letter or digit (only punctuation, emoji or invisible characters): write it.",
    )
    yield (
        "text_length",
        "texts",
        BETWEEN(column="text_chars", max_value=params.max_text_chars),
        f"A caption or question is longer than validate.max_text_chars = {params.max_text_chars}: "
        "shorten it, or raise the limit.",
    )
    yield (
        "text_placeholder",
        "texts",
        IN_SET(column="placeholder", value_set=[False]),
        "A caption or question that is only nan, None, null or N/A, which table programs write for an empty cell: "
        "write the text, or remove the line.",
    )
    yield (
        "train_size",
        "sizes",
        gxe.ExpectColumnPairValuesAToBeGreaterThanB(column_A="train_media", column_B="needed", or_equal=True),
        f"Fewer training media than validate.min_train_videos = {params.min_train_videos}: a model that starts from "
        "random weights stays near chance. Add videos, or start from pretrained parts: `clipbert recommend` says "
        "which, and what to expect.",
    )
    yield (
        "text_duplicates",
        "texts",
        BETWEEN(column="other_splits", max_value=0, mostly=1 - params.max_duplicate_texts),
        f"More than validate.max_duplicate_texts = {params.max_duplicate_texts:g} of the val and test captions are "
        "in another split too: a right answer may be counted as wrong, or have been memorized; write more specific "
        "captions, or raise the limit.",
    )


def _truncation(params: ValidateParams) -> Iterator[Rule]:
    yield (
        "text_truncated",
        "truncation",
        BETWEEN(column="truncated_share", max_value=params.max_truncated),
        f"More than validate.max_truncated = {params.max_truncated:g} of the texts are longer than "
        "model.max_text_length and are cut there: shorten them, or raise model.max_text_length.",
    )
    yield (
        "text_identical",
        "truncation",
        BETWEEN(column="identical_share", max_value=params.max_identical),
        f"More than validate.max_identical = {params.max_identical:g} of the texts are the same as another one once "
        "they are cut at model.max_text_length, so they cannot be distinguished: put what matters first, shorten them, "
        "or raise model.max_text_length.",
    )


def _answers(params: ValidateParams) -> Iterator[Rule]:
    yield (
        "answers",
        "texts",
        BETWEEN(column="answer_chars", min_value=1),
        "An open question without an answer: write it.",
    )
    yield (
        "answers",
        "texts",
        NOT_NULL(column="answer_index", **CHOICE),
        "A multiple-choice question without an answer: write the position of the right option, from 0.",
    )
    yield (
        "answers",
        "texts",
        BETWEEN(column="answer_index", min_value=0),
        "A negative answer: write the position of the right option, from 0.",
    )
    yield (
        "answers",
        "texts",
        gxe.ExpectColumnPairValuesAToBeGreaterThanB(
            column_A="options_count", column_B="answer_index", ignore_row_if="either_value_is_missing"
        ),
        "An answer beyond the last option: write the position of the right option, from 0.",
    )
    yield (
        "answer_coverage",
        "answers",
        IN_SET(column="answer_known", value_set=[True], mostly=params.min_answer_coverage),
        f"Fewer than validate.min_answer_coverage = {params.min_answer_coverage:g} of the val and test answers are in "
        "the answer vocabulary: raise tasks.open_qa.max_answers, or add training questions with these answers.",
    )
    yield (
        "class_balance",
        "splits",
        BETWEEN(column="top_answer_share", max_value=params.max_answer_share),
        f"One answer belongs to more than validate.max_answer_share = {params.max_answer_share:g} of a split's open "
        "questions, so always giving it reaches that accuracy: add questions with other answers.",
    )


def _segments(covered: Coverage | None) -> Iterator[Rule]:
    if covered is None:
        return
    inside = (
        "start_s and end_s are seconds from the start of the video, and an image has no segments: correct them. Leave "
        "out end_s for the rest of the video; validate.severity.segments: warn uses the part that lies inside."
    )
    enough = f"frames.max_frames to {covered.max_frames}"
    if covered.more_fps:
        enough = f"frames.fps to {covered.fps:g} and {enough}"
    enough += ", which is enough for all segments, or make them longer or remove them."
    later = gxe.ExpectColumnPairValuesAToBeGreaterThanB
    yield (
        "segments",
        "segments",
        later(column_A="duration_s", column_B="start_s"),
        f"A segment starts after its video ends: {inside}",
    )
    yield (
        "segments",
        "segments",
        BETWEEN(column="beyond_s", max_value=END_TOLERANCE_S),
        f"A segment ends more than {END_TOLERANCE_S:g} s after its video: {inside}",
    )
    yield (
        "segment_frames",
        "segments",
        BETWEEN(column="frames", min_value=1),
        f"No candidate frame lies in a segment, so nothing of it can be shown: set {enough} With "
        "validate.severity.segment_frames: warn its texts are left out of training and evaluation.",
    )
    yield (
        "segment_clips",
        "segments",
        later(
            column_A="frames",
            column_B="frames_per_clip",
            or_equal=True,
            ignore_row_if="either_value_is_missing",  # no frame at all: the check above
        ),
        f"A segment holds fewer candidate frames than a clip has (model.frames_per_clip), so its clips repeat frames: "
        f"set {enough}",
    )


def _drift() -> Iterator[Rule]:
    yield (
        "drift",
        "drift",
        gxe.ExpectColumnPairValuesAToBeGreaterThanB(column_A="limit", column_B="value", or_equal=True),
        "The data differs from the data that passed last: if that is intended, raise the limit in validate.drift; "
        "otherwise look for missing or changed files.",
    )
