"""The plots and the report: numbers that can be checked by hand, and a page without other files."""

import re
import warnings
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image

from clipbert.config.schema import Params
from clipbert.evaluation.pictures import STRIP_HEIGHT, data_url
from clipbert.evaluation.plots import bars, write_tables
from clipbert.evaluation.report import headlines, sample_rows, strip, write_pictures, write_report
from clipbert.evaluation.run import Evaluation
from clipbert.frame_cache import FrameCache
from clipbert.sampling.segments import Segment
from clipbert.tasks import make_task, task_class
from clipbert.tasks.batch import Example

MEDIA = "videos/clip_0000.mp4"


def retrieval() -> Evaluation:
    def items(ranks: list[int]) -> pd.DataFrame:
        return pd.DataFrame(
            {
                "item_id": [f"c{i}" for i in range(len(ranks))],
                "score": [float(rank == 1) for rank in ranks],
                "chance": 0.25,
                "rank": ranks,
                "gallery": 4,
                "text": [f"<text> & number {i}" for i in range(len(ranks))],
                "media": MEDIA,
                "top_media": [[MEDIA]] * len(ranks),
                "top_scores": [[1.5]] * len(ranks),
            }
        )

    own, blank = items([1, 1, 2, 4]), items([4, 4, 4, 4])
    metrics = make_task("retrieval", Params().tasks).evaluator.metrics(own) | {
        "retrieval/chance_r1": 25.0,
        "retrieval/chance_r5": 100.0,
        "retrieval/chance_r10": 100.0,
        "retrieval/chance_median_rank": 2.5,
    }
    metrics |= {f"retrieval/blank_frames_r{k}": 0.0 for k in (1, 5, 10)} | {"retrieval/blank_frames_median_rank": 4.0}
    return Evaluation("retrieval", metrics, own, blank)


def open_qa() -> Evaluation:
    items = pd.DataFrame(
        {
            "item_id": ["a", "b", "c"],
            "score": [1.0, 0.0, 1.0],
            "chance": 0.5,
            "answer_type": ["color", "color", "count"],
            "question": ["what color?", "what color?", "how many?"],
            "answer": ["red", "blue", "two"],
            "predicted": ["red", "red", "two"],
            "confidence": [0.9, 0.4, 0.8],
            "in_vocabulary": True,
            "answer_rank": [1.0, 3.0, 1.0],
            "media": MEDIA,
        }
    )
    metrics = {
        "open_qa/accuracy": 66.7,
        "open_qa/majority_accuracy": 33.3,
        "open_qa/blank_frames_accuracy": 33.3,
        "open_qa/chance_accuracy": 50.0,
        "open_qa/questions": 3.0,
        "open_qa/answer_coverage": 100.0,
    }
    return Evaluation("open_qa", metrics, items, items.assign(score=[1.0, 0.0, 0.0]))


def multiple_choice() -> Evaluation:
    items = pd.DataFrame(
        {
            "item_id": ["a", "b"],
            "score": [1.0, 0.0],
            "chance": [0.5, 1 / 3],
            "answer_type": ["color", "order"],
            "question": ["what color?", "which is first?"],
            "options": [["red", "blue"], ["the star", "the ring", "the <cross>"]],
            "right": [0, 1],
            "answer": ["red", "the ring"],
            "predicted": ["red", "the star"],
            "confidence": [0.9, 0.4],
            "media": MEDIA,
        }
    )
    task = make_task("multiple_choice", Params().tasks)
    train = [Example(MEDIA, ["q"], ["?"], ["x"], [""], options=[["x", "y"]], right=[0])]
    metrics = (
        task.evaluator.metrics(items)
        | task.evaluator.baselines(items, train)
        | {"multiple_choice/blank_frames_accuracy": 25.0}
    )
    return Evaluation("multiple_choice", metrics, items, items)


def image_qa() -> Evaluation:
    items = open_qa().items.assign(
        score=[1.0, 0.3, 0.0],
        exact=[1.0, 0.0, 0.0],
        right_answers=[["red"], ["blue", "red"], ["three"]],
        right_scores=[[1.0], [1.0, 0.3], [1.0]],
    )
    task = make_task("image_qa", Params().tasks)
    train = [Example(MEDIA, ["q"], ["?"], ["red"], [""], scores=[{"red": 1.0}])]
    blank = {"image_qa/blank_frames_accuracy": 12.5, "image_qa/blank_frames_exact": 7.5}
    return Evaluation(
        "image_qa", task.evaluator.metrics(items) | task.evaluator.baselines(items, train) | blank, items, items
    )


def captioning() -> Evaluation:
    items = pd.DataFrame(
        {
            "item_id": ["a", "b"],
            "score": [0.75, 0.25],
            "chance": 0.0,
            "predicted": ["a <red> square", "a circle"],
            "references": [["a red square", "the square is red"], ["a green circle"]],
            "log_probability": [-1.5, -2.0],
            "media": MEDIA,
        }
    )
    task = make_task("captioning", Params().tasks)
    train = [Example(MEDIA, ["c"], ["a red circle"], [""], [""])]
    blank = {f"captioning/blank_frames_{name}": 1.0 for name in ("cider", "bleu4", "rouge_l")}
    metrics = task.evaluator.metrics(items) | task.evaluator.baselines(items, train) | blank
    return Evaluation("captioning", metrics, items, items.assign(score=[0.0, 0.125]))


def pretrain() -> Evaluation:
    items = pd.DataFrame(
        {
            "item_id": ["a", "b"],
            "answer_type": "all",
            "score": [0.75, 0.25],
            "chance": 0.25,
            "masked_tokens": [[7, 9], [7, 8, 5]],
            "predicted_tokens": [[7, 8], [6, 8, 7]],
            "mlm_right": [1, 1],
            "itm_score": [1.0, 0.5],
            "matched": [0.9, 0.2],
            "wrong_matched": [0.1, 0.4],
            "answer": ["2 masked", "3 masked"],
            "predicted": ["1 right", "1 right"],
            "text": ["a <red> square", "a circle"],
            "wrong_text": ["a circle", "a <red> square"],
            "media": MEDIA,
        }
    )
    task = make_task("pretrain", Params().tasks)
    blank = {f"pretrain/blank_frames_{name}": 7.5 for name in ("accuracy", "mlm_accuracy", "itm_accuracy")}
    metrics = task.evaluator.metrics(items) | task.evaluator.baselines(items, []) | blank
    return Evaluation("pretrain", metrics, items, items.assign(mlm_right=[0, 1], matched=[0.4, 0.3]))


def tables(evaluation: Evaluation) -> dict[str, pd.DataFrame]:
    return task_class(evaluation.task).report.tables(evaluation.items, evaluation.blank_items)


def test_pretraining_has_an_accuracy_of_masked_tokens_and_of_both_kinds_of_texts() -> None:
    assert tables(pretrain())["parts"].to_dict("records") == [
        {"answer_type": "masked tokens", "questions": 5, "accuracy": 40.0, "blank_frames": 20.0},
        {"answer_type": "matched texts", "questions": 2, "accuracy": 50.0, "blank_frames": 0.0},
        {"answer_type": "unmatched texts", "questions": 2, "accuracy": 100.0, "blank_frames": 100.0},
    ]


def test_captions_are_sorted_by_score_next_to_blank_frames() -> None:
    table = tables(captioning())["cider"]
    assert table.to_dict("list") == {"rank": [1, 2], "cider": [750.0, 250.0], "blank_frames": [125.0, 0.0]}


def test_recall_counts_the_texts_within_the_first_k() -> None:
    table = tables(retrieval())["recall"]
    assert table["recall"].tolist() == [50.0, 75.0, 75.0, 100.0]
    assert table["blank_frames"].tolist() == [0.0, 0.0, 0.0, 100.0]
    assert table["chance"].tolist() == [25.0, 50.0, 75.0, 100.0]


def test_accuracy_by_type_has_that_of_blank_frames() -> None:
    table = tables(open_qa())["by_type"]
    assert table.to_dict("records") == [
        {"answer_type": "color", "questions": 2, "accuracy": 50.0, "blank_frames": 50.0},
        {"answer_type": "count", "questions": 1, "accuracy": 100.0, "blank_frames": 0.0},
    ]


def test_tables_are_written_for_dvc(tmp_path: Path) -> None:
    write_tables(retrieval(), tmp_path / "retrieval")
    write_tables(open_qa(), tmp_path / "open_qa")
    assert sorted(path.name for path in tmp_path.rglob("*.csv")) == ["by_type.csv", "confusion.csv", "recall.csv"]
    assert pd.read_csv(tmp_path / "retrieval" / "recall.csv")["k"].tolist() == [1, 2, 3, 4]


def test_samples_are_spread_over_the_test_set_right_and_wrong() -> None:
    rows = sample_rows("retrieval", retrieval().items)
    assert [row["item_id"] for row in rows["Right"]] == ["c0", "c1"]
    assert [row["item_id"] for row in rows["Wrong"]] == ["c2", "c3"]


def test_a_caption_is_not_right_or_wrong_but_in_the_better_half_or_not() -> None:
    items = captioning().items.iloc[[0, 0, 0, 0]].assign(score=[0.01, 0.02, 0.3, 0.04], item_id=["a", "b", "c", "d"])
    rows = sample_rows("captioning", items)
    assert [row["item_id"] for row in rows["Upper half by CIDEr"]] == ["c", "d"]
    assert [row["item_id"] for row in rows["Lower half by CIDEr"]] == ["a", "b"]


@pytest.mark.parametrize(
    "evaluation",
    [retrieval(), open_qa(), multiple_choice(), image_qa(), captioning(), pretrain()],
    ids=lambda evaluation: evaluation.task,
)
def test_the_page_stands_alone_and_says_the_numbers(evaluation: Evaluation, tiny_project: Path, tmp_path: Path) -> None:
    cache = FrameCache(tiny_project / "artifacts" / "frames")
    history = pd.DataFrame({"step": [1, 2, 3], "loss": [3.0, 2.0, 1.0]})
    main = task_class(evaluation.task).evaluator_class.main_metric
    validation = pd.DataFrame({"step": [2, 3], main: [10.0, 20.0]})
    out = tmp_path / "report.html"
    arguments = (evaluation, cache, history, validation, main, {"git commit": "abc"}, {"train.lr": 0.001}, out)
    write_report(*arguments)
    page = out.read_text()
    for headline in headlines(evaluation.task, evaluation.metrics):
        assert headline["value"] in page
    assert "train.lr" in page
    assert "git commit" in page
    addresses = re.findall(r'(?:src|href)="([^"]*)"', page)
    assert addresses
    assert all(address.startswith(("data:image/jpeg;base64,", "#")) for address in addresses)
    if evaluation.task == "retrieval":
        assert "&lt;text&gt; &amp; number 0" in page
    if evaluation.task == "multiple_choice":
        assert "options: the star, the ring, the &lt;cross&gt;" in page
    write_report(*arguments)
    assert out.read_text() == page


def test_the_page_shows_how_many_videos_were_reranked() -> None:
    metrics = retrieval().metrics
    assert "reranked videos per text" not in [card["name"] for card in headlines("retrieval", metrics)]
    metrics |= {"retrieval/reranked": 2.0, "retrieval/first_stage_recall": 75.0}
    (card,) = [card for card in headlines("retrieval", metrics) if card["name"] == "reranked videos per text"]
    assert card == {
        "name": "reranked videos per text",
        "value": "2",
        "interval": "",
        "compared_with": [("of", "4"), ("texts with their own video among them, %", "75")],
    }


def test_a_picture_is_shown_once_and_a_video_in_four_frames(tiny_project: Path) -> None:
    cache = FrameCache(tiny_project / "artifacts" / "frames")
    videos = (
        pd.read_parquet(tiny_project / "artifacts" / "manifest" / "videos.parquet").groupby("kind")["media"].first()
    )
    assert strip(cache, videos["image"]).width == 96
    assert strip(cache, videos["video"]).width == 4 * 98 - 2


def test_figures_without_a_sign_have_one_decimal_at_most() -> None:
    cards = {
        card["name"]: card for card in headlines("captioning", {**captioning().metrics, "captioning/cider": 228.479})
    }
    assert cards["CIDEr"]["value"] == "228.5"
    assert cards["different captions"]["value"] == "2"


def test_pictures_for_the_tracker(tiny_project: Path, tmp_path: Path) -> None:
    cache = FrameCache(tiny_project / "artifacts" / "frames")
    paths = write_pictures("open_qa", open_qa().items, cache, tmp_path)
    assert [path.name for path in paths[::2]] == ["right_1.jpg", "right_2.jpg", "wrong_1.jpg"]
    assert all(path.read_bytes()[:2] == b"\xff\xd8" for path in paths[::2])


def test_words_that_no_bundled_font_can_draw_are_in_the_text_file(tiny_project: Path, tmp_path: Path) -> None:
    cache = FrameCache(tiny_project / "artifacts" / "frames")
    heights = {}
    for answer in ("\u7ea2\u8272", "\u0643\u0644\u0628", "L\u00f6we"):
        items = open_qa().items.assign(predicted=answer)
        picture, words = write_pictures("open_qa", items, cache, tmp_path)[:2]
        assert words.read_text(encoding="utf-8").splitlines()[-1] == f"predicted: {answer} (90 %)"
        heights[answer] = Image.open(picture).height
    assert heights["\u7ea2\u8272"] == heights["\u0643\u0644\u0628"] == STRIP_HEIGHT + 8  # the frames alone
    assert heights["L\u00f6we"] == STRIP_HEIGHT + 8 + 3 * 16


def test_a_figure_keeps_words_of_any_script_as_text_without_a_warning() -> None:
    names = ["\u6570\u91cf", "\u0915\u093f\u0924\u093e\u092c"]
    table = pd.DataFrame({"answer_type": names, "questions": 1, "accuracy": 50.0, "blank_frames": 10.0})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        drawn = bars(table)
    assert all(f"{name} (1)" in drawn for name in names)


def test_a_segment_is_shown_by_its_own_frames(tiny_project: Path, tmp_path: Path) -> None:
    cache = FrameCache(tiny_project / "artifacts" / "frames")
    times = cache[MEDIA].times
    middle = float(times[2])
    evaluation = retrieval()
    count = len(evaluation.items)
    items = evaluation.items.assign(
        start_s=middle,
        end_s=float("nan"),
        top_media=[[MEDIA, MEDIA, MEDIA]] * count,
        top_scores=[[3.0, 2.0, 1.0]] * count,
        top_start_s=[[0.0, middle, None]] * count,
        top_end_s=[[middle, None, None]] * count,
    )
    evaluation = replace(evaluation, items=items)
    history = pd.DataFrame({"step": [1, 2, 3], "loss": [3.0, 2.0, 1.0]})
    validation = pd.DataFrame({"step": [2, 3], "retrieval/mrr": [10.0, 20.0]})
    write_report(evaluation, cache, history, validation, "retrieval/mrr", {}, {}, tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert f'<p class="media">{MEDIA}, {middle:g} to the end</p>' in page
    own = data_url(strip(cache, MEDIA, 2, Segment(middle)))
    other = data_url(strip(cache, MEDIA, 2, Segment(0.0, middle)))
    assert own != other != data_url(strip(cache, MEDIA, 2))
    assert page.count(f'<div class="truth"><img src="{own}"') == count
    assert page.count(f'<div><img src="{other}"') == count
    assert f'alt="frames of {MEDIA}, 0 to {middle:g} s"' in page
    paths = write_pictures("retrieval", items, cache, tmp_path / "pictures")
    texts = [path.read_text() for path in paths if path.suffix == ".txt"]
    assert all(text.startswith(f"{MEDIA}, {middle:g} to the end\n") for text in texts)
    assert texts[0].splitlines()[-1] == "its segment ranks 1 of 4"
    longest = strip(cache, MEDIA, 4, Segment(middle))
    assert longest.width == strip(cache, MEDIA, min(4, len(times) - 2)).width
