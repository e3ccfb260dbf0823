"""Segments: which candidate frames lie inside, how they are named, and the settings with which they hold enough."""

import itertools
import math

import numpy as np
import pytest

from clipbert.sampling.clips import candidate_times
from clipbert.sampling.segments import Segment, coverage, item_key, segment_item


@pytest.mark.parametrize(
    ("start_s", "end_s", "expected"),
    [
        (None, None, None),
        (0, None, None),  # the whole video is one item, however it is written
        (math.nan, math.nan, None),
        (None, 4, Segment(0.0, 4.0)),
        (2.5, None, Segment(2.5, math.inf)),
    ],
)
def test_the_start_or_the_end_may_be_missing(
    start_s: float | None, end_s: float | None, expected: Segment | None
) -> None:
    assert Segment.of(start_s, end_s) == expected


def test_neighbouring_segments_share_no_candidate_frame() -> None:
    times = candidate_times(10.0, 2.0, 64)  # 0.25, 0.75, ..., 9.75
    cuts = [0.0, 0.25, 3.0, 3.25, 9.75, math.inf]
    found = [list(Segment(start, end).frames(times)) for start, end in itertools.pairwise(cuts)]
    assert [position for inside in found for position in inside] == list(range(20))
    assert list(Segment(0.25, 1.25).frames(times)) == [0, 1]
    assert list(Segment(0.3, 0.7).frames(times)) == []
    assert list(Segment(12.0, 14.0).frames(times)) == []


def test_names_of_items_are_media_fragments() -> None:
    assert item_key("videos/a.mp4", None) == "videos/a.mp4"
    assert item_key("videos/a.mp4", Segment(12.5, 20.0)) == "videos/a.mp4#t=12.5,20"
    assert item_key("videos/a.mp4", Segment(12.5)) == "videos/a.mp4#t=12.5"
    assert item_key("a", Segment(0.0, 3600.123456)) != item_key("a", Segment(0.0, 3600.123457))
    assert Segment(0.0, 20.0).describe() == "0 to 20 s"
    assert Segment(5.0).describe() == "5 to the end"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"video": "a.mp4", "start": 3}, r"videos\[2\] has the key 'start': expected video, start_s, end_s\."),
        ({"start_s": 3}, r"videos\[2\] has no video: expected"),
        ({"video": "a.mp4", "start_s": "3"}, r"videos\[2\]: start_s is '3': expected seconds from the start"),
        ({"video": "a.mp4", "end_s": math.nan}, r"videos\[2\]: end_s is nan: expected seconds"),
        ({"video": "a.mp4", "start_s": -1}, r"videos\[2\]: start_s is -1: expected seconds .*, 0 or more"),
        ({"video": "a.mp4", "start_s": 5, "end_s": 5}, r"end_s is 5 and start_s is 5: expected an end after the start"),
    ],
)
def test_an_item_that_is_wrong_is_named(given: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        segment_item(given, "videos[2]")


def test_short_segments_of_long_videos_need_more_candidates() -> None:
    # 64 candidates of 640 s are 10 s apart: at 5, 15, 25, ...
    segments = [Segment(0.0, 30.0), Segment(6.0, 14.0), Segment(600.0), Segment(700.0, 800.0)]
    found = coverage(segments, [640.0] * 4, fps=2.0, max_frames=64, enough=2)
    assert found.frames.tolist() == [3, 0, 4, 0]
    assert (found.fps, found.max_frames, found.more_fps) == (2.0, 160, False)  # 640 s / (8 s / 2)
    assert coverage(segments, [640.0] * 4, 2.0, 160, 2).frames.tolist() == [7, 2, 10, 0]


def test_a_segment_between_two_candidates_needs_a_higher_rate() -> None:
    found = coverage([Segment(0.3, 0.7)], [10.0], fps=2.0, max_frames=64, enough=1)
    assert found.frames.tolist() == [0]
    assert (found.fps, found.more_fps) == (2.5, True)
    assert coverage([Segment(0.3, 0.7)], [10.0], found.fps, found.max_frames, 1).frames.tolist() == [1]


def test_the_settings_named_are_enough_for_every_segment() -> None:
    draw = np.random.default_rng(0)
    for _ in range(50):
        durations = draw.uniform(1, 2000, 8).tolist()
        starts = [draw.uniform(0, 0.9 * duration) for duration in durations]
        segments = [Segment(start, start + draw.uniform(0.1, 20)) for start in starts]
        fps, most, enough = float(draw.choice([0.5, 2.0, 8.0])), int(draw.choice([1, 16, 64])), int(draw.integers(1, 5))
        found = coverage(segments, durations, fps, most, enough)
        again = coverage(segments, durations, found.fps, found.max_frames, enough)
        assert again.frames.min() >= enough
        assert (again.fps, again.max_frames, again.more_fps) == (found.fps, found.max_frames, False)
