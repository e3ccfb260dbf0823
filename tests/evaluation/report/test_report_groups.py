"""Results by group: which item is in which group, and the numbers of a group."""

import numpy as np
import pandas as pd
from task_evaluations import captioning, multiple_choice, open_qa, pretrain, retrieval

from clipbert.evaluation.report.groups import (
    confused_answers,
    item_properties,
    parts,
    results_by_group,
    top_of_scale,
)
from clipbert.tasks.batch import Example

TRAIN = [Example("videos/t.mp4", ["a", "b"], ["What color?", "a red square"], ["RED", ""], ["", ""])]


def videos(media: list[str], **columns: list[object]) -> pd.DataFrame:
    given = {"kind": "video", "duration_s": 3.0, "brightness": 100.0} | columns
    return pd.DataFrame({"media": media, **given})


def test_parts_have_about_equal_size_and_say_their_range() -> None:
    values = pd.Series([1.0, 2.0, 3.0, 4.0, 5.0, np.nan, 6.5])
    labels = parts(values, "s")
    assert labels.tolist() == ["1 to 2 s"] * 2 + ["3 to 4 s"] * 2 + ["5 to 6.5 s", np.nan, "5 to 6.5 s"]
    assert labels.cat.categories.tolist() == ["1 to 2 s", "3 to 4 s", "5 to 6.5 s"]
    assert parts(pd.Series([2.0, 4.0, 4.0]), "s").tolist() == ["2 s", "4 s", "4 s"]
    assert parts(pd.Series([2.0, 2.0]), "s").tolist() == ["2 s", "2 s"]
    assert parts(pd.Series([np.nan]), "s").isna().all()


def test_questions_are_grouped_by_type_and_by_what_training_has_seen() -> None:
    items = open_qa().items
    found = item_properties("open_qa", items, videos(["videos/clip_0000.mp4"]), TRAIN)
    assert found["Question type"].tolist() == ["color", "color", "count"]
    assert found["Combination"].tolist() == [
        "question and answer seen together in training",
        "new combination of question and answer",
        "new combination of question and answer",
    ]


def test_a_caption_is_new_if_two_adjacent_words_are() -> None:
    items = captioning().items.assign(references=[["a red square", "A RED square."], ["a square red"]])
    found = item_properties("captioning", items, videos(["videos/clip_0000.mp4"]), TRAIN)
    assert found["Combination"].tolist() == [
        "all pairs of adjacent words seen in training",
        "a pair of adjacent words is new",
    ]


def test_groups_have_the_mean_the_interval_and_blank_frames() -> None:
    media = [f"videos/{i}.mp4" for i in range(6)]
    items = pd.DataFrame(
        {
            "item_id": list("abcdef"),
            "media": media,
            "text": ["a red square"] * 3 + ["a red square and a ring"] * 3,
            "score": [1.0, 1.0, 0.0, 0.0, 0.0, 0.0],
            "blank_frames_score": [0.0, 0.5, 0.0, 0.0, 0.0, 0.0],
        }
    )
    of = videos(media, duration_s=[1.0, 1.0, 1.0, 9.0, 9.0, 9.0], kind=["video"] * 5 + ["image"])
    found = results_by_group("retrieval", items, of, TRAIN)
    assert set(found) == {"Caption length", "Duration", "Combination"}  # all have the same brightness
    short, long = found["Caption length"]
    assert (short.name, short.items, round(short.score, 1), round(short.blank or 0, 1)) == ("3 words", 3, 66.7, 16.7)
    assert short.interval is not None
    assert short.interval.low < 66.7 <= short.interval.high
    assert (long.name, long.items, long.score) == ("6 words", 3, 0.0)
    assert [(group.name, group.items) for group in found["Duration"]] == [("1 s", 3), ("9 s", 2)]  # an image has none


def test_one_group_is_no_result() -> None:
    assert "Question type" not in results_by_group(
        "multiple_choice",
        multiple_choice().items.assign(answer_type="color"),
        videos(["videos/clip_0000.mp4"]),
        [],
    )


def test_the_most_confused_answers_come_first() -> None:
    items = pd.DataFrame(
        {
            "answer": ["red", "red", "red", "blue", "two"],
            "predicted": ["blue", "blue", "red", "red", "two"],
            "score": [0.0, 0.0, 1.0, 0.0, 1.0],
        }
    )
    found = [(one.answer, one.predicted, one.count, one.of) for one in confused_answers(items)]
    assert found == [("red", "blue", 2, 3), ("blue", "red", 1, 1)]
    assert confused_answers(retrieval().items) == []
    assert confused_answers(pretrain().items) == []


def test_the_scale_of_shares_ends_at_100_and_that_of_cider_at_the_largest_value() -> None:
    items = captioning().items.assign(media=["videos/a.mp4", "videos/b.mp4"])
    groups = results_by_group("captioning", items, videos(["videos/a.mp4"], brightness=[3.0]), TRAIN)
    assert top_of_scale("open_qa", groups) == 100
    assert 0 < top_of_scale("captioning", groups) <= 100
