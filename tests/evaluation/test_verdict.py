"""Verdicts: the sentence that the intervals of known predictions give."""

import numpy as np
import pandas as pd
import pytest

from clipbert.evaluation.verdict import verdict


def scores(right: int, count: int) -> np.ndarray:
    """Scores of which `right` are 1, spread over the items."""
    found = np.zeros(count)
    found[np.linspace(0, count - 1, right).round().astype(int)] = 1
    assert found.sum() == right
    return found


def answers(count: int, right: int, **baselines: int) -> pd.DataFrame:
    """Predictions of open QA on videos of their own, with how many of them each baseline has right."""
    columns = {f"{name}_score": np.roll(scores(number, count), 1) for name, number in baselines.items()}
    return pd.DataFrame(
        {
            "item_id": [f"q{i}" for i in range(count)],
            "media": [f"v{i}" for i in range(count)],
            "score": scores(right, count),
            "chance": 0.05,
            "answer": [f"answer {i % 7}" for i in range(count)],
            "answer_type": "all",
            **columns,
        }
    )


def sentences(task: str, items: pd.DataFrame) -> list[str]:
    return [finding.text for finding in verdict(task, items)]


def test_no_better_than_the_majority_answer() -> None:
    found = verdict("open_qa", answers(400, 124, majority=120, blank_frames=120))
    assert found[0].kind == "bad"
    assert found[0].text.startswith("No better than the majority answer: 31 % against 30 %, a difference of -")


def test_better_and_worse_than_the_majority_answer() -> None:
    better, uses = verdict("open_qa", answers(400, 200, majority=40, blank_frames=40))
    assert better.kind == uses.kind == "good"
    assert better.text.startswith("Better than the majority answer: 50 % against 10 %, a gain of 3")
    assert uses.text == "Uses the frames (50 % against 10 % with blank frames)."
    worse = verdict("open_qa", answers(400, 40, majority=200, blank_frames=40))[0]
    assert worse.kind == "bad"
    assert worse.text.startswith("Worse than the majority answer: 10 % against 50 %, a difference of -")


def test_the_question_alone_is_a_baseline_too() -> None:
    found = sentences("open_qa", answers(400, 200, majority=40, question_only=210, blank_frames=40))
    assert found[0].startswith("No better than the question alone: 50 % against 52 %")


def test_the_frames_are_not_used_for_one_kind_of_question() -> None:
    color, direction = answers(300, 240, majority=60, blank_frames=60), answers(100, 14, majority=10, blank_frames=21)
    items = pd.concat([color.assign(answer_type="color"), direction.assign(answer_type="direction")])
    items = items.assign(media=[f"v{i}" for i in range(400)])
    found = sentences("open_qa", items)
    assert "Uses the frames (64 % against 20 % with blank frames)." in found
    assert "Does not use the frames for `direction` questions (14 % against 21 % with blank frames)." in found
    assert not any("`color`" in text for text in found)


def test_a_difference_that_may_be_large_is_not_denied() -> None:
    (found,) = [text for text in sentences("open_qa", answers(60, 20, majority=1, blank_frames=14)) if "frames" in text]
    assert found.startswith("Cannot tell whether it uses the frames (33 % against 23 % with blank frames: a difference")


def retrieval(ranks: list[float], gallery: int, blank: float = 0.0) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "media": [f"v{i}" for i in range(len(ranks))],
            "score": [float(rank == 1) for rank in ranks],
            "chance": 1 / gallery,
            "rank": ranks,
            "gallery": gallery,
            "blank_frames_score": blank,
        }
    )


def test_eight_videos_are_too_few_to_tell_and_a_recall_of_ten_is_trivial() -> None:
    assert sentences("retrieval", retrieval([2, 3, 4, 5, 6, 7, 8, 8], 8)) == [
        "8 test videos are too few to tell: the interval is 0 to 37 %.",
        "R@10 of 100 % is trivial with 8 videos.",
        "R@5 of 50 % says little with 8 videos: chance is 62 %.",
    ]
    assert sentences("retrieval", retrieval([1], 1)) == [
        "One test video is too few to tell: it gives no interval.",
        "R@5 and R@10 of 100 % are trivial with one video.",
    ]


def test_a_large_gallery_makes_no_recall_trivial() -> None:
    ranks = [1.0, 2.0, 7.0, 30.0] * 50
    assert sentences("retrieval", retrieval(ranks, 200)) == [
        "Better than chance: 25 % against 0.5 %, a gain of 18 to 30 points.",
        "Uses the frames (25 % against 0 % with blank frames).",
    ]


@pytest.mark.parametrize(
    ("column", "score", "text"),
    [
        (
            "shuffled_frames_score",
            0.5,
            "Does not use the order of the frames (50 % against 50 % with shuffled frames).",
        ),
        ("shuffled_frames_score", 0.1, "Uses the order of the frames (50 % against 10 % with shuffled frames)."),
        ("single_frame_score", 0.5, "Does not use more than one frame (50 % against 50 % with a single frame)."),
        ("single_frame_score", 0.1, "Uses more than one frame (50 % against 10 % with a single frame)."),
    ],
)
def test_other_frames_show_what_the_model_uses(column: str, score: float, text: str) -> None:
    items = answers(400, 200, majority=4, blank_frames=4)
    own = items["score"].to_numpy()
    items[column] = own if score == 0.5 else own * np.tile([1, 0, 0, 0, 0], 80)
    if score != 0.5:
        items.loc[np.flatnonzero(own)[40:], column] = 0.0
        items.loc[np.flatnonzero(own)[:40], column] = 1.0
    assert text in sentences("open_qa", items)
    items.loc[9:, column] = np.nan  # of too few videos nothing is said
    assert not any(("shuffled" in found) or ("single" in found) for found in sentences("open_qa", items))


def test_conditions_that_were_measured_on_some_items_are_compared_on_these() -> None:
    items = answers(400, 200, majority=4, blank_frames=4)
    items["single_frame_score"] = items["score"].where(items.index % 4 == 0)
    share = 100 * items["score"][items.index % 4 == 0].mean()
    assert f"Does not use more than one frame ({share:.0f} % against {share:.0f} % with a single frame)." in sentences(
        "open_qa", items
    )


def test_one_answer_says_nothing() -> None:
    items = answers(100, 100, majority=100, blank_frames=100).assign(answer="yes")
    found = sentences("open_qa", items)
    assert found[0].startswith("No better than the majority answer: 100 % against 100 %")
    assert found[-1] == "All 100 test questions have the answer `yes`: an accuracy says nothing."


def test_captions_are_judged_in_units_of_cider() -> None:
    items = pd.DataFrame(
        {
            "media": [f"v{i}" for i in range(100)],
            "score": np.linspace(0.1, 0.4, 100),
            "chance": 0.0,
            "constant_score": 0.05,
            "blank_frames_score": 0.04,
        }
    )
    better, uses = sentences("captioning", items)
    assert better == "Better than the best constant caption: 250 CIDEr against 50 CIDEr, a gain of 183 to 217 points."
    assert uses == "Uses the frames (250 CIDEr against 40 CIDEr with blank frames)."
