"""Measurement of texts that are cut at the model's `max_text_length`, and of those that are equal once cut."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pandas as pd

BATCH = 10_000


@dataclass(frozen=True)
class TextLimit:
    """Tokenizer of the model that will be trained, and its limit.

    Attributes:
        tokenize: texts to token ids, [CLS] and [SEP] included, not cut.
        max_text_length: tokens after which texts are cut.
    """

    tokenize: Callable[[list[str]], Sequence[Sequence[int]]]
    max_text_length: int


def measure_truncation(texts: pd.DataFrame, limit: TextLimit) -> pd.DataFrame:
    """Return one row per kind and split.

    The text of a multiple choice is the question with its longest option, as the model reads them.

    Args:
        texts: the manifest's texts.

    Returns:
        Columns kind, split, texts, truncated, identical (cut texts that are the same as another text of their kind and
        split, though the whole texts differ), truncated_share, identical_share.
    """
    longest = texts["options"].map(lambda options: "" if options is None else max(options, key=len, default=""))
    whole = (texts["text"] + " " + longest).str.strip()
    lengths: list[int] = []
    full: list[int] = []
    cut: list[int] = []
    for first in range(0, len(whole), BATCH):
        for ids in limit.tokenize(whole.iloc[first : first + BATCH].tolist()):
            lengths.append(len(ids))
            full.append(hash(tuple(ids)))
            # Truncation keeps the first tokens and the [SEP] at the end.
            kept = ids if len(ids) <= limit.max_text_length else [*ids[: limit.max_text_length - 1], ids[-1]]
            cut.append(hash(tuple(kept)))
    frame = texts[["kind", "split"]].assign(length=lengths, full=full, cut=cut)
    frame["truncated"] = frame["length"] > limit.max_text_length
    different = frame.groupby(["kind", "split", "cut"])["full"].transform("nunique")
    frame["identical"] = frame["truncated"] & (different > 1)
    rows = frame.groupby(["kind", "split"]).agg(
        texts=("cut", "size"), truncated=("truncated", "sum"), identical=("identical", "sum")
    )
    rows["truncated_share"] = rows["truncated"] / rows["texts"]
    rows["identical_share"] = rows["identical"] / rows["texts"]
    return rows.reset_index()
