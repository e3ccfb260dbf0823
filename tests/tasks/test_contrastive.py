"""Which rows of a batch show the same, and are not negatives of each other."""

import math

import torch

from clipbert.distributed.collectives import RankRows
from clipbert.tasks.batch import Batch
from clipbert.tasks.contrastive import same_items


def batch(keys: list[int] | None, spans: list[list[float]] | None = None) -> Batch:
    return Batch(
        **dict.fromkeys(
            ("pixel_values", "labels", "texts_per_video", "texts_per_item", "input_ids", "attention_mask"),
            torch.empty(0),
        ),
        ids=[],
        media_keys=None if keys is None else torch.tensor(keys),
        spans=None if spans is None else torch.tensor(spans),
    )


def pairs(given: Batch) -> set[tuple[int, int]]:
    same = same_items(given, RankRows())
    assert same is not None
    assert torch.equal(same, same.T)
    return {(i, j) for i, j in same.nonzero().tolist() if i < j}


def test_a_video_that_occurs_twice_is_the_same() -> None:
    assert pairs(batch([5, 6, 5])) == {(0, 2)}
    assert same_items(batch(None), RankRows()) is None


def test_segments_are_the_same_if_half_of_the_shorter_one_is_common() -> None:
    spans = [[0.0, 10.0], [5.0, 15.0], [6.0, 16.0], [20.0, 30.0], [2.0, 4.0]]
    assert pairs(batch([1] * 5, spans)) == {(0, 1), (1, 2), (0, 4)}
    assert pairs(batch([1, 2, 3, 4, 5], spans)) == set()


def test_the_whole_video_is_the_same_as_each_of_its_segments() -> None:
    spans = [[0.0, math.inf], [5.0, 15.0], [20.0, math.inf], [0.0, math.inf]]
    assert pairs(batch([1, 1, 1, 2], spans)) == {(0, 1), (0, 2)}
