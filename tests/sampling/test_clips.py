"""Clip indices: in range, ordered, consecutive where there is room, even or evenly random."""

import itertools

import numpy as np
import pytest

from clipbert.sampling.clips import random_clips, uniform_clips

SHAPES = list(itertools.product([1, 2, 3, 5, 8, 13, 64, 1000], [1, 2, 3, 4, 8, 16], [1, 2, 3, 4, 8]))


@pytest.mark.parametrize("draw", ["random", "uniform"])
@pytest.mark.parametrize(("num_frames", "clips", "frames_per_clip"), SHAPES)
def test_properties_of_every_draw(draw, num_frames, clips, frames_per_clip):
    for seed in range(5):
        if draw == "random":
            indices = random_clips(num_frames, clips, frames_per_clip, np.random.default_rng(seed))
        else:
            indices = uniform_clips(num_frames, clips, frames_per_clip)
        assert indices.shape == (clips, frames_per_clip)
        assert indices.dtype == np.int64
        assert indices.min() >= 0
        assert indices.max() < num_frames
        assert (np.diff(indices, axis=1) >= 0).all()
        assert (np.diff(indices[:, 0]) >= 0).all()
        if num_frames >= frames_per_clip:
            assert (np.diff(indices, axis=1) == 1).all()
        else:
            assert set(indices[0]) == set(range(num_frames))
        if num_frames >= clips * frames_per_clip:
            assert (np.diff(indices.flatten()) >= 1).all()


def test_random_clips_follow_their_generator():
    a, b, c = (random_clips(64, 4, 2, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert (a == b).all()
    assert (a != c).any()


def test_every_placement_is_equally_likely():
    generator = np.random.default_rng(0)
    draws = [tuple(random_clips(6, 2, 2, generator)[:, 0]) for _ in range(6000)]
    placements = {(0, 2), (0, 3), (0, 4), (1, 3), (1, 4), (2, 4)}
    assert set(draws) == placements
    counts = [draws.count(placement) for placement in placements]
    assert max(abs(count - 1000) for count in counts) < 150


def test_one_random_clip_reaches_both_ends():
    generator = np.random.default_rng(0)
    starts = {int(random_clips(8, 1, 2, generator)[0, 0]) for _ in range(500)}
    assert starts == set(range(7))


def test_uniform_clips_are_centred_in_equal_parts():
    assert uniform_clips(16, 4, 2).tolist() == [[1, 2], [5, 6], [9, 10], [13, 14]]
    assert uniform_clips(9, 3, 1).tolist() == [[1], [4], [7]]
    assert uniform_clips(8, 1, 2).tolist() == [[3, 4]]


def test_images_and_short_videos_repeat_frames():
    assert uniform_clips(1, 2, 3).tolist() == [[0, 0, 0], [0, 0, 0]]
    assert random_clips(1, 2, 3, np.random.default_rng(0)).tolist() == [[0, 0, 0], [0, 0, 0]]
    assert uniform_clips(2, 2, 4).tolist() == [[0, 0, 1, 1], [0, 0, 1, 1]]
    assert uniform_clips(3, 4, 2).tolist() == [[0, 1], [0, 1], [0, 1], [1, 2]]


@pytest.mark.parametrize("arguments", [(0, 1, 1), (1, 0, 1), (1, 1, 0), (-3, 1, 1)])
def test_nothing_to_draw_is_an_error(arguments):
    with pytest.raises(ValueError, match="at least 1 is needed"):
        uniform_clips(*arguments)
    with pytest.raises(ValueError, match="at least 1 is needed"):
        random_clips(*arguments, np.random.default_rng(0))
