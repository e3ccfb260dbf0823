"""ActivityNet-QA's real validation files; ActivityNet Captions, not at hand, in its official layout."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from clipbert.data.importers.datasets.activitynet_captions import import_activitynet_captions
from clipbert.data.importers.datasets.activitynet_qa import TYPES, import_activitynet_qa

VIDEO = {"duration": 9.0, "timestamps": [[4.0, 8], [0, 3.5]], "sentences": [" It ends.", "A man runs. "]}


def test_real_questions(
    real: Path,
    named: Callable[..., Path],
    source: Callable[..., Any],
    rows: Callable[[str], list[dict[str, Any]]],
) -> None:
    asked = json.loads((real / "activitynet_qa" / "val_q.json").read_text())
    names = sorted({f"v_{row['video_name']}" for row in asked})
    folder = named(names[:900], ".mp4")
    named((name.removeprefix("v_") for name in names[900:]), ".mkv")
    summary = import_activitynet_qa(real / "activitynet_qa", source(folder))
    assert dict(summary.written) == {("open_qa", "val"): 18_000}
    assert len(summary.media) == 1_800
    assert "val: 1800 media, 18000 texts, as published" in summary.lines()
    assert {row["answer_type"] for row in rows("open_qa.jsonl")} == set(TYPES)


def test_answers_of_another_file(
    annotated: Callable[..., Path],
    media: Callable[..., Path],
    source: Callable[..., Any],
    failing: Callable[..., str],
) -> None:
    path = annotated("test_q.json", [{"video_name": "a", "question": "is it?", "question_id": "v_a_1"}])
    assert "test_a.json: no such file" in failing(import_activitynet_qa, path, source(media("a.mp4")))
    annotated("test_a.json", [{"answer": "yes", "type": 9, "question_id": "v_a_1"}])
    assert "item 1: type 9" in failing(import_activitynet_qa, path, source(media("a.mp4")))
    annotated("test_a.json", [{"answer": "yes", "type": 3, "question_id": "v_b_1"}])
    text = failing(import_activitynet_qa, path, source(media("a.mp4")))
    assert "nothing to import: 1 with a question without an answer" in text


def test_paragraphs_in_the_order_of_time(
    annotated: Callable[..., Path],
    media: Callable[..., Path],
    source: Callable[..., Any],
    rows: Callable[[str], list[dict[str, Any]]],
) -> None:
    annotated("train.json", {"v_a-1": VIDEO, "v_B2": VIDEO})
    annotated("val_2.json", {"v_c": VIDEO})
    path = annotated("val_1.json", {"v_c": VIDEO})
    summary = import_activitynet_captions(path.parent, source(media("v_a-1.mp4", "B2.mkv", "deep/v_c.webm")))
    assert [(row["media"], row["text"], row["split"]) for row in rows("captions.jsonl")] == [
        ("videos/v_a-1.mp4", "A man runs. It ends.", "train"),
        ("videos/B2.mkv", "A man runs. It ends.", "train"),
        ("videos/v_c.webm", "A man runs. It ends.", "test"),
    ]
    lines = summary.lines()
    assert "val_2.json describes the videos of val_1.json a second time; it was left out" in lines
    assert "train: 2 media, 2 texts in these files (published: 10009 media, 10009 texts)" in lines
    assert "no val split: --hold-out val=0.1 takes one from the training media" in lines


def test_a_sentence_is_about_its_segment(
    annotated: Callable[..., Path],
    media: Callable[..., Path],
    source: Callable[..., Any],
    rows: Callable[[str], list[dict[str, Any]]],
) -> None:
    times = [[0, 3.5], [2, 9.4], [0, 9.0], [9.2, 9.4], [3, 3]]
    sentences = ["A man runs.", " It ends. ", "All of it.", "After the end.", "No time."]
    path = annotated("train.json", {"v_a": {"duration": 9.0, "timestamps": times, "sentences": sentences}})
    summary = import_activitynet_captions(path, source(media("v_a.mp4")), texts="segments")
    assert rows("captions.jsonl") == [
        {"id": "activitynet-v_a-0", "text": "A man runs.", "media": "videos/v_a.mp4", "split": "train", "start_s": 0.0}
        | {"end_s": 3.5},
        # annotated ends lie a little after the end of the video: the rest of it
        {"id": "activitynet-v_a-1", "text": "It ends.", "media": "videos/v_a.mp4", "split": "train", "start_s": 2.0},
        {"id": "activitynet-v_a-2", "text": "All of it.", "media": "videos/v_a.mp4", "split": "train"},
    ]
    assert dict(summary.dropped) == {"a segment without duration, or after the end of its video": 2}


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ({**VIDEO, "timestamps": [[0, 1]]}, "v_a: timestamps [[0, 1]] for 2 sentences"),
        ({**VIDEO, "timestamps": 7}, "v_a: timestamps 7 for 2 sentences"),
        ({**VIDEO, "sentences": "one"}, 'v_a: sentences is "one", not a list of strings'),
        ({"sentence": []}, "v_a: no sentences (did you mean sentence?)"),
        (3, "v_a: no sentences, only nothing"),
    ],
)
def test_wrong_layout(
    annotated: Callable[..., Path],
    media: Callable[..., Path],
    source: Callable[..., Any],
    failing: Callable[..., str],
    value: Any,
    said: str,
) -> None:
    path = annotated("train.json", {"v_a": value})
    assert said in failing(import_activitynet_captions, path, source(media("v_a.mp4")))


def test_no_such_file(
    tmp_path: Path, media: Callable[..., Path], source: Callable[..., Any], failing: Callable[..., str]
) -> None:
    text = failing(import_activitynet_captions, tmp_path, source(media("v_a.mp4")))
    assert "expected train.json and val_1.json" in text
