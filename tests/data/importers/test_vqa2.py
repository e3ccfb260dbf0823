"""VQA 2.0: what answers become and are worth, and the import of files in the official layout (not at hand)."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from clipbert.config.data import IngestParams
from clipbert.data.importers.datasets.vqa2 import import_vqa2
from clipbert.data.importers.vqa_answers import normalise, soft_scores
from clipbert.data.ingest.stage import ingest
from clipbert.data.manifest import read_texts


@pytest.mark.parametrize(
    ("answer", "normal"),
    [
        ("Yes", "yes"),
        ("the  red\tcar", "red car"),
        ("two dogs", "2 dogs"),
        ("none", "0"),
        ("dont know", "don't know"),
        ("shed've", "she'd've"),
        ("somebody'd", "somebodyd"),
        ("well", "well"),
        ("black/white", "black white"),
        ("black / white", "black white"),
        ("1,000", "1000"),
        ("1.5 m.", "1.5 m"),
        ("t-shirt", "t shirt"),
        ("what?", "what"),
        ("a", ""),
        ("Ça va", "ça va"),
    ],
)
def test_spelling(answer: str, normal: str) -> None:
    assert normalise(answer) == normal


def test_ten_annotators_give_the_published_table() -> None:
    answers = ["one"] * 1 + ["b"] * 2 + ["c"] * 3 + ["d"] * 4
    assert soft_scores(answers) == {"1": 0.3, "b": 0.6, "c": 0.9, "d": 1.0}
    assert soft_scores(["yes"] * 10) == {"yes": 1.0}
    assert soft_scores(["a", "the"]) == {}


def files(annotated: Callable[..., Path], split: str, first: int, questions: list[list[str]]) -> Path:
    name = f"{split}2014"
    asked = [
        {"image_id": 9, "question": f"what is {number}?", "question_id": first + number}
        for number, _ in enumerate(questions)
    ]
    annotated(f"v2_OpenEnded_mscoco_{name}_questions.json", {"info": {"year": 2014}, "questions": asked})
    told = [
        {
            "question_type": "what is",
            "multiple_choice_answer": answers[0],
            "answers": [
                {"answer": answer, "answer_confidence": "yes", "answer_id": place + 1}
                for place, answer in enumerate(answers)
            ],
            "image_id": 9,
            "answer_type": "other",
            "question_id": first + number,
        }
        for number, answers in enumerate(questions)
    ]
    return annotated(f"v2_mscoco_{name}_annotations.json", {"info": {}, "annotations": told, "license": {}})


@pytest.mark.slow
def test_soft_answers_reach_the_manifest(
    tmp_path: Path,
    annotated: Callable[..., Path],
    media: Callable[..., Path],
    source: Callable[..., Any],
    rows: Callable[[str], list[dict[str, Any]]],
) -> None:
    files(annotated, "train", 0, [["Net"] * 3 + ["the racket"] * 3 + ["a"] * 4] + [["yes"] * 10] * 9)
    path = files(annotated, "val", 100, [["no"] * 9 + ["yes"], ["yes"] * 10])
    for name in ("test2015", "test-dev2015"):
        annotated(f"v2_OpenEnded_mscoco_{name}_questions.json", {"questions": []})
    folder = media("train2014/COCO_train2014_000000000009.jpg", "val2014/COCO_val2014_000000000009.jpg")
    summary = import_vqa2(path.parent, source(folder))
    found = rows("open_qa.jsonl")
    assert found[0] == {
        "id": "vqa-0",
        "question": "what is 0?",
        "answer": "net",
        "answer_type": "other",
        "answers": {"net": 0.9, "racket": 0.9},
        "media": "images/COCO_train2014_000000000009.jpg",
        "split": "train",
    }
    assert found[10]["answers"] == {"no": 1.0, "yes": 0.3}
    lines = summary.lines()
    assert "answer vocabulary: 1 answers of the file, which cover 90.0 % of train, 50.0 % of val" in lines
    assert any("at least 9 questions in train and val: 1 (published: 3129)" in line for line in lines)
    assert any("test2015 have no public answers" in line for line in lines)
    ingest(tmp_path / "data", tmp_path / "manifest", IngestParams(num_workers=1, duplicates="keep"))
    texts = read_texts(tmp_path / "manifest")
    assert texts["answers"][10] == ["no", "yes"]
    assert texts["answer_scores"][10] == [1.0, 0.3]


def test_images_of_2017(annotated: Callable[..., Path], media: Callable[..., Path], source: Callable[..., Any]) -> None:
    path = files(annotated, "train", 0, [["yes"] * 10] * 3)
    assert len(import_vqa2(path, source(media("000000000009.jpg"))).media) == 1


def test_questions_are_needed(
    annotated: Callable[..., Path],
    media: Callable[..., Path],
    source: Callable[..., Any],
    failing: Callable[..., str],
) -> None:
    path = files(annotated, "val", 0, [["yes"] * 10])
    (path.parent / "v2_OpenEnded_mscoco_val2014_questions.json").unlink()
    text = failing(import_vqa2, path.parent, source(media("a.jpg")))
    assert "expected names such as v2_OpenEnded_mscoco_train2014_questions.json" in text
