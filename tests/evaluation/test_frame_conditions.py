"""Other frames: which ones are shown, and which items are scored with them."""

from types import SimpleNamespace

import numpy as np
import pytest

from clipbert.evaluation.frame_conditions import middle_frame, shuffled, uses_order
from clipbert.tasks.base import thinned
from clipbert.tasks.batch import Example


def test_the_frames_of_each_clip_change_their_order() -> None:
    indices = np.array([[0, 3, 6, 9], [1, 4, 7, 10], [5, 5, 5, 5]])
    found = shuffled(indices)
    assert [sorted(clip) for clip in found.tolist()] == indices.tolist()
    assert (found[:2] != indices[:2]).any(axis=1).all()
    assert (shuffled(indices) == found).all()
    assert shuffled(np.array([[2, 8]])).tolist() == [[8, 2]]


def test_the_middle_frame_takes_the_place_of_each() -> None:
    assert middle_frame(np.array([[0, 3, 6, 9], [1, 4, 7, 10]])).tolist() == [[1] * 4] * 2
    assert middle_frame(np.array([[4]])).tolist() == [[4]]


@pytest.mark.parametrize(
    ("fusion", "frames", "expected"), [("mean", 4, False), ("concat", 1, False), ("attention", 2, True)]
)
def test_only_a_fusion_in_order_can_use_it(fusion: str, frames: int, expected: bool) -> None:
    model = SimpleNamespace(config=SimpleNamespace(frame_fusion=fusion))
    assert uses_order(model, frames) is expected


def test_thinned_examples_keep_evenly_spaced_texts_and_a_whole_gallery() -> None:
    examples = [
        Example(f"v{i}", [f"{i}a", f"{i}b"], ["a", "b"], ["x", "y"], ["", ""], options=[["p"], ["q"]], right=[0, 0])
        for i in range(5)
    ]
    few = thinned(examples, 3)
    assert [example.ids for example in few] == [["0a"], ["2a"], ["4b"]]
    assert few[2].answers == ["y"]
    assert few[2].options == [["q"]]
    gallery = thinned(examples, 3, keep_empty=True)
    assert [example.media for example in gallery] == [f"v{i}" for i in range(5)]
    assert [example.ids for example in gallery] == [["0a"], [], ["2a"], [], ["4b"]]
    assert thinned(examples, 100) == examples
