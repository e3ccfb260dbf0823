"""Examples of segments: which texts belong together, which frames they show, and what is left out."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from clipbert.config.schema import Params
from clipbert.data.manifest import read_texts
from clipbert.frame_cache import FrameCache
from clipbert.sampling.segments import Segment
from clipbert.tasks import make_task
from clipbert.tasks.examples import texts_with_frames
from clipbert.tasks.scoring import CachedFrames


def caption(identity: str, media: str, start_s: float | None = None, end_s: float | None = None) -> dict[str, Any]:
    row = {"id": identity, "kind": "caption", "media": media, "text": f"text {identity}", "split": "train"}
    return {**row, "media_kind": "video", "answer": None, "answer_type": None, "start_s": start_s, "end_s": end_s}


def read(task: str, *rows: dict[str, Any]) -> list[Any]:
    texts = pd.DataFrame(rows).astype({"start_s": float, "end_s": float})
    return make_task(task, Params().tasks).examples.read(texts, "train")


def test_a_segment_is_an_example_of_its_own() -> None:
    rows = [
        caption("c0", "b.mp4", 5, 9),
        caption("c1", "a.mp4"),
        caption("c2", "b.mp4"),
        caption("c3", "b.mp4", 5, 9),
        caption("c4", "b.mp4", None, 4),
        caption("c5", "b.mp4", 0, None),
    ]
    examples = read("retrieval", *rows)
    found = [(example.key, example.media, example.segment, example.ids) for example in examples]
    assert found == [
        ("a.mp4", "a.mp4", None, ["c1"]),
        ("b.mp4#t=0,4", "b.mp4", Segment(0.0, 4.0), ["c4"]),
        ("b.mp4", "b.mp4", None, ["c2", "c5"]),
        ("b.mp4#t=5,9", "b.mp4", Segment(5.0, 9.0), ["c0", "c3"]),
    ]
    assert examples[1].place == {"media": "b.mp4", "start_s": 0.0, "end_s": 4.0}
    assert examples[0].place == {"media": "a.mp4"}


def test_without_segments_the_examples_are_those_of_videos() -> None:
    rows = [caption("c0", "b.mp4"), caption("c1", "a.mp4"), caption("c2", "b.mp4")]
    plain = [{key: value for key, value in row.items() if key not in ("start_s", "end_s")} for row in rows]
    examples = make_task("retrieval", Params().tasks).examples.read(pd.DataFrame(plain), "train")
    assert examples == read("retrieval", *rows)
    assert [(example.key, example.ids) for example in examples] == [("a.mp4", ["c1"]), ("b.mp4", ["c0", "c2"])]


def test_captions_of_a_question_are_those_of_its_segment() -> None:
    question = {"kind": "open_qa", "answer": "red"}
    rows = [
        caption("c0", "a.mp4"),
        caption("c1", "a.mp4", 2, 4),
        caption("q0", "a.mp4", 2, 4) | question,
        caption("q1", "a.mp4") | question,
        caption("q2", "a.mp4", 3, 4) | question,
    ]
    examples = read("open_qa", *rows)
    assert {example.ids[0]: example.captions for example in examples} == {
        "q0": ["text c1"],
        "q1": ["text c0"],
        "q2": [],
    }


def test_frames_of_a_segment_are_those_of_its_video(tiny_project: Path) -> None:
    cache = FrameCache(tiny_project / "artifacts" / "frames")
    media = "videos/clip_0000.mp4"
    times, whole = cache[media].times, CachedFrames(cache, media)
    assert len(times) > 4
    part = CachedFrames(cache, media, Segment(float(times[2]), float(times[4])))
    assert (len(whole), len(part)) == (len(times), 2)
    assert np.array_equal(part.read(np.array([1, 0])), cache.read(media, [3, 2]))
    rest = CachedFrames(cache, media, Segment(float(times[2])))
    assert np.array_equal(rest.read(np.arange(len(rest))), cache[media].images[2:])


def test_texts_without_a_candidate_frame_are_left_out_and_counted(
    tiny_project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cache = FrameCache(tiny_project / "artifacts" / "frames")
    texts = read_texts(tiny_project / "artifacts" / "manifest").head(4)
    assert texts_with_frames(texts, cache).equals(texts)
    segments = texts.assign(start_s=[0.0, 0.3, np.nan, 900.0], end_s=[2.0, 0.4, np.nan, np.nan])
    kept = texts_with_frames(segments, cache)
    assert kept["id"].tolist() == [texts["id"].iloc[0], texts["id"].iloc[2]]
    said = " ".join(capsys.readouterr().out.split())
    assert "2 of 4 texts are left out: no candidate frame lies in their segment." in said
    assert f"The first is {texts['media'].iloc[1]}#t=0.3,0.4, a video with" in said
    assert "`clipbert validate` (check segment_frames)" in said
