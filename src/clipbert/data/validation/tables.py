"""Tables for the checks: the two tables of the manifest with derived columns, and counts."""

import unicodedata
from dataclasses import dataclass

import numpy as np
import pandas as pd
import regex

from clipbert.config.data import ValidateParams
from clipbert.data.annotations import SPLITS
from clipbert.data.placeholders import is_placeholder
from clipbert.data.validation.near_duplicates import near_duplicates
from clipbert.data.validation.segments import ClipSettings, has_segments, measure_segments
from clipbert.data.validation.truncation import TextLimit, measure_truncation
from clipbert.sampling.segments import Coverage
from clipbert.text_normalization import normalize_text

HELD_OUT = ("val", "test")
ENOUGH_QUESTIONS = 20  # with fewer questions the share of an answer is not meaningful
_NOT_WORDS = regex.compile(r"[^\p{L}\p{M}\p{N}]+")


@dataclass(frozen=True)
class Tables:
    """Non-empty tables by name (`frames`), the near-duplicate pairs, the skipped checks with the reason, and the
    candidate frames of the segments if there are any."""

    frames: dict[str, pd.DataFrame]
    near: pd.DataFrame
    skipped: dict[str, str]
    covered: Coverage | None = None


def make_tables(
    videos: pd.DataFrame,
    texts: pd.DataFrame,
    drift: pd.DataFrame | None,
    params: ValidateParams,
    max_answers: int,
    limit: TextLimit | str = "there is no tokenizer",
    settings: ClipSettings | None = None,
) -> Tables:
    """Build the tables videos, texts, splits, sizes, answers, truncation, drift and segments; the latter five only if
    they have rows.

    videos gains `splits_of_file` (splits in which a file of the same hash lies), `short_side` and, for val and test,
    `near_duplicates`. texts gains `media_known`, `splits_of_media`, `text_chars`, `letters`, `answer_chars`,
    `options_count` and, for captions of val and test, `other_splits` (other splits with the same words).
    answers holds the open questions of val and test with `answer_known`.
    """
    near = near_duplicates(videos, params.max_hash_distance)
    used = videos.dropna(subset=["split"])
    counts = used["split"].value_counts()
    splits = pd.DataFrame({"split": list(SPLITS), "media_count": [int(counts.get(split, 0)) for split in SPLITS]})
    questions = texts[texts["kind"] == "open_qa"]
    splits["top_answer_share"] = [_top_share(questions.loc[questions["split"] == split]) for split in SPLITS]
    frames = {"splits": splits, "texts": _texts(texts, videos), "videos": _videos(videos, near)}
    skipped = {}
    answers = _answers(questions, max_answers)
    if len(answers):
        frames["answers"] = answers
    else:
        skipped["answer_coverage"] = "there are no open questions in val and test, or none in train"
    sizes = _sizes(texts, params.min_train_videos)
    if len(sizes):
        frames["sizes"] = sizes
    else:
        skipped["train_size"] = "no text is of the training split"
    if isinstance(limit, str):
        skipped["text_truncated"] = limit
    else:
        frames["truncation"] = measure_truncation(texts, limit)
    if drift is None:
        skipped["drift"] = "no other manifest has passed yet; this one is the baseline once it passes"
    else:
        frames["drift"] = drift
    if not videos["looks"].notna().any():
        skipped["near_duplicates"] = "the manifest has no perceptual hashes"
    covered = None
    if settings is not None and has_segments(texts):
        frames["segments"], covered = measure_segments(texts, videos, settings)
    return Tables(frames, near, skipped, covered)


def normalise(text: str) -> str:
    """Return only the words of a text, so that copies match despite case, width, punctuation or encoding of accents."""
    return _NOT_WORDS.sub(" ", unicodedata.normalize("NFKC", text).casefold()).strip()


def _videos(videos: pd.DataFrame, near: pd.DataFrame) -> pd.DataFrame:
    used = videos.dropna(subset=["split"])
    alike = pd.concat([near["media"], near["near_media"]]).value_counts()
    counted = videos["media"].map(alike).fillna(0).astype(float)
    return videos.drop(columns="looks").assign(
        splits_of_file=videos["sha256"].map(used.groupby("sha256")["split"].nunique()).fillna(0).astype("int64"),
        short_side=videos[["width", "height"]].min(axis=1),
        near_duplicates=counted.where(videos["split"].isin(HELD_OUT) & videos["looks"].notna()),
    )


def _texts(texts: pd.DataFrame, videos: pd.DataFrame) -> pd.DataFrame:
    captions = texts[texts["kind"] == "caption"]
    words = captions["text"].map(normalise)
    questions = texts.loc[texts["kind"] == "open_qa", "answer"].fillna("")
    splits = captions.groupby(words)["split"].transform("nunique") - 1
    return texts.assign(
        media_known=texts["media"].isin(videos["media"]),
        splits_of_media=texts.groupby("media")["split"].transform("nunique"),
        text_chars=texts["text"].str.len(),
        letters=texts["text"].map(_letters),
        placeholder=texts["text"].map(is_placeholder),
        answer_chars=questions.map(_letters).astype(float).reindex(texts.index),
        options_count=texts["options"].map(lambda options: 0 if options is None else len(options)),
        other_splits=splits.where(captions["split"].isin(HELD_OUT)).reindex(texts.index),
    ).drop(columns="options")


def _sizes(texts: pd.DataFrame, needed: int) -> pd.DataFrame:
    """Return how many training media each kind of texts has, and how many it needs."""
    media = texts[texts["split"] == "train"].groupby("kind")["media"].nunique()
    return media.rename("train_media").reset_index().assign(needed=needed)


def _letters(text: str) -> int:
    """Return the number of letters and digits of any script."""
    return sum(map(str.isalnum, text))


def _answers(questions: pd.DataFrame, max_answers: int) -> pd.DataFrame:
    """Return the open questions of val and test, and whether a model of `max_answers` classes can give their answer."""
    questions = questions.assign(normalized=questions["answer"].map(normalize_text, na_action="ignore"))
    trained = questions.loc[questions["split"] == "train", "normalized"].value_counts().head(max_answers).index
    if not len(trained):
        return questions.iloc[:0]
    held_out = questions[questions["split"].isin(HELD_OUT)]
    known = held_out["normalized"].isin(trained)
    return held_out[["id", "media", "split", "answer"]].assign(answer_known=known).reset_index(drop=True)


def _top_share(questions: pd.DataFrame) -> float:
    counts = questions["answer"].dropna().map(normalize_text).value_counts()
    return float(counts.iloc[0] / counts.sum()) if counts.sum() >= ENOUGH_QUESTIONS else np.nan
