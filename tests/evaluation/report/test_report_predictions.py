"""The table of predictions: best, median, worst and random items, and which frames the model saw."""

import base64
import io
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from task_evaluations import MEDIA, open_qa

from clipbert.evaluation.report.predictions import (
    MAX_ROWS,
    SAMPLES,
    prediction_rows,
    sample_positions,
    shown_positions,
    to_script,
)
from clipbert.evaluation.report.strips import FRAMES, HEIGHT, format_time, video_strip
from clipbert.frame_cache import FrameCache
from clipbert.pages.pictures import GAP
from clipbert.sampling.clips import uniform_clips
from clipbert.sampling.segments import Segment


@pytest.fixture
def cache(tiny_project: Path) -> FrameCache:
    return FrameCache(tiny_project / "artifacts" / "frames")


def test_samples_are_ordered_by_score_and_then_by_loss() -> None:
    items = pd.DataFrame({"score": [0.0, 1.0] * 50, "loss": np.arange(100) / 10})
    found = sample_positions(items)
    assert found["best"] == [2 * i + 1 for i in range(SAMPLES)]
    assert found["worst"] == [98 - 2 * i for i in range(SAMPLES)]
    assert found["median"] == [89, 91, 93, 95, 97, 99, 0, 2, 4, 6, 8, 10]
    assert len(set(found["random"])) == SAMPLES
    assert sample_positions(items) == found
    assert sample_positions(items.drop(columns="loss"))["best"][:2] == [1, 3]


def test_an_item_without_a_loss_is_the_worst_of_its_score() -> None:
    items = pd.DataFrame({"score": [1.0, 1.0, 0.0], "loss": [np.nan, 5.0, 9.0]})
    assert sample_positions(items)["best"] == [1, 0, 2]


def test_a_large_test_set_is_shown_by_its_samples_and_a_random_part() -> None:
    items = pd.DataFrame({"score": np.arange(4000) / 4000})
    samples = sample_positions(items)
    shown = shown_positions(items, samples)
    assert len(shown) == MAX_ROWS
    assert shown == sorted(set(shown))
    assert {0, 3999} <= set(shown)
    assert set().union(*samples.values()) <= set(shown)


def test_rows_say_outcome_score_loss_and_samples(cache: FrameCache) -> None:
    items = open_qa().items.assign(loss=[0.1, 2.0, np.nan])
    found = prediction_rows("open_qa", items, cache, 1)
    first, second, third = found["rows"]
    assert (first["right"], second["right"]) == (True, False)
    assert (first["shown"], first["loss"], third["loss"]) == ("100 %", 0.1, None)
    assert (first["type"], third["type"]) == ("color", "count")
    assert first["samples"] == ["best", "median", "worst", "random"]  # there are fewer items than samples
    assert first["lines"] == ["what color?", "answer: red", "predicted: red (90 %)"]
    assert list(found["strips"]) == [MEDIA]  # once, though three items show it


def test_the_frames_that_the_model_saw_are_marked(cache: FrameCache) -> None:
    times = cache[MEDIA].times
    strip = video_strip(cache, MEDIA, None, clips=2, frames_per_clip=1)
    seen = uniform_clips(len(times), 2, 1).flatten()
    assert [time for time, used in zip(strip.times, strip.used, strict=True) if used] == [times[i] for i in seen]
    assert strip.times == sorted(strip.times)
    assert len(strip.times) == min(FRAMES, len(times))
    picture = Image.open(io.BytesIO(base64.b64decode(strip.picture.partition(",")[2])))
    frame = cache[MEDIA].images[0]
    width = round(HEIGHT * frame.shape[1] / frame.shape[0])
    assert picture.size == (len(strip.times) * (width + GAP) - GAP, HEIGHT)


def test_more_frames_than_a_strip_has_room_for_are_counted(cache: FrameCache) -> None:
    times = cache[MEDIA].times
    strip = video_strip(cache, MEDIA, None, clips=len(times), frames_per_clip=1)
    assert len(times) > FRAMES
    assert all(strip.used)
    assert strip.hidden == len(times) - FRAMES


def test_a_segment_has_its_own_frames(cache: FrameCache) -> None:
    times = cache[MEDIA].times
    strip = video_strip(cache, MEDIA, Segment(float(times[2]), float(times[4])), clips=1, frames_per_clip=1)
    assert strip.times == times[2:4].tolist()


def test_times_fit_below_a_frame() -> None:
    assert [format_time(seconds) for seconds in (0.25, 12.26, 125.0)] == ["0.25 s", "12.3 s", "2:05"]


def test_no_text_ends_the_script_element() -> None:
    text = '</script><script>alert("x")</script><!--'
    written = to_script({"text": text})
    assert "<" not in written
    assert json.loads(written) == {"text": text}
