"""Splits of new media: one for all texts of a media file, the same for near-duplicates, else by a hash of the name."""

import dataclasses
from collections.abc import Iterable

import pandas as pd

from clipbert.config.data import InboxParams, ValidateParams
from clipbert.data.importers.splits import hashed_split
from clipbert.data.inbox.batch import Batch
from clipbert.data.inbox.present import Present, priority
from clipbert.data.validation.near_duplicates import near_duplicates

PURPOSE = "inbox"  # of the hash


def check_splits(batch: Batch, present: Present) -> None:
    """Refuse rows whose split contradicts the other texts of their media."""
    for media, splits in batch.splits().items():
        known = present.splits.get(media)
        if known is None and len(splits) == 1:
            continue
        for row in batch.rows_of(media):
            if row.text.split and row.text.split != known:
                if known is not None:
                    reason = f"split is {row.text.split!r}, but the texts of {media} in data/ have {known!r}"
                else:
                    reason = f"split: the rows of {media} name several: {', '.join(sorted(splits))}"
                batch.refuse_row(row, "split", reason)


def assign_splits(
    batch: Batch, present: Present, videos: pd.DataFrame, params: InboxParams, limits: ValidateParams
) -> None:
    """Give every row without a split the split of its media.

    That is the first of: the split of its other texts; the split of a near-duplicate in data/ or in the batch, so that
    none leaks (test before val before train); a hash of the name, of which `inbox.test` and `inbox.val` are the shares.
    Near-duplicates without any split get that of the first of their names.

    Args:
        videos: the videos table of the batch alone.
    """
    known = {media: priority(splits) for media, splits in batch.splits().items()}
    known |= {
        media: present.splits[media] for media in {row.text.media for row in batch.rows.values()} & set(present.splits)
    }
    open_media = {row.text.media for row in batch.rows.values() if not row.text.split} - set(known)
    if open_media:
        groups = _groups(batch.media.keys(), present, videos, limits.max_hash_distance)
        shares = {"test": params.test, "val": params.val}
        for media in sorted(open_media):
            group = groups.get(media, {media})
            splits = {known.get(name) or present.splits.get(name) or "" for name in group} - {""}
            if splits:
                known[media] = priority(splits)
                others = sorted(group - {media})
                batch.assigned[media] = f"{known[media]}, as its near-duplicate {others[0]}"
            else:
                for name in group & open_media:
                    known[name] = hashed_split(PURPOSE, min(group), shares)
                    batch.assigned[name] = f"{known[name]}, by the hash of its name"
    for row in batch.rows.values():
        if not row.text.split:
            row.text = dataclasses.replace(row.text, split=known[row.text.media])


def _groups(new: Iterable[str], present: Present, videos: pd.DataFrame, max_distance: float) -> dict[str, set[str]]:
    """Return for each new media that has near-duplicates all media that are connected to it by them.

    `near_duplicates` compares the splits test and train, so the new media are in both here.
    """
    old = [] if present.videos is None else [present.videos.assign(split="train")]
    both = pd.concat([videos.assign(split="test"), videos.assign(split="train"), *old], ignore_index=True)
    pairs = near_duplicates(both, max_distance)
    fresh = set(new)
    groups: dict[str, set[str]] = {}
    for one, two in zip(pairs["media"], pairs["near_media"], strict=True):
        if one == two:
            continue
        merged = groups.get(one, {one}) | (groups.get(two, {two}) if two in fresh else {two})
        for name in merged & fresh:
            groups[name] = merged
    return groups
