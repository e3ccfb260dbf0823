"""MSRVTT-QA: the real validation file with its answer table, and the official JSON layout."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from clipbert.data.importers.datasets.msrvtt_qa import import_msrvtt_qa


def test_real_file(real: Path, named: Callable[..., Path], source: Callable[..., Any]) -> None:
    folder = named((f"video{number}" for number in range(6513, 7010)), ".mp4")
    table = real / "msrvtt_qa" / "train_ans2label.json"
    summary = import_msrvtt_qa(real / "msrvtt_qa", source(folder), table)
    assert dict(summary.written) == {("open_qa", "val"): 12_278}
    assert summary.coverage("val") == pytest.approx(0.93004, abs=1e-5)
    lines = summary.lines()
    assert "val: 497 media, 12278 texts, as published" in lines
    assert "test: not in these files (published: 2990 media, 72821 texts)" in lines
    assert "answer vocabulary: 1500 answers of the file, which cover 93.0 % of val" in lines


def test_official_layout_and_coverage(
    annotated: Callable[..., Path],
    media: Callable[..., Path],
    source: Callable[..., Any],
    rows: Callable[[str], list[dict[str, Any]]],
) -> None:
    def asked(video: int, question: str, answer: str) -> dict[str, Any]:
        return {"answer": answer, "category_id": 1, "id": video, "question": question, "video_id": video}

    annotated("train_qa.json", [asked(0, "what is it?", "dog"), asked(0, "how is it?", "wet")])
    path = annotated("test_qa.json", [asked(9, "who is it?", "dog"), asked(9, "is it?", "yes"), asked(9, "what?", " ")])
    summary = import_msrvtt_qa(path.parent, source(media("video0.mp4", "video9.webm")))
    assert [(row["id"], row["answer_type"], row["split"]) for row in rows("open_qa.jsonl")] == [
        ("question-train-1", "what", "train"),
        ("question-train-2", "how", "train"),
        ("question-test-1", "who", "test"),
        ("question-test-2", "what", "test"),
    ]
    assert summary.coverage("test") == 0.5
    assert "left out: 1 with an empty answer" in summary.lines()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('[{"question": "what?"}]', "item 1: no video_id, only question; expected"),
        ('[{"question": "what?", "video_id": 1, "answer": "a"}, 3]', "item 2: 3 is not an object"),
        ('{"a": 1}', "holds no list"),
        ('[{"question": "what?", "video_id": 1, "answer": "a"} {', "not valid JSON after item 1: parse error"),
        ("[" * 100_000, "item 1: nested more than 64 levels deep"),
        (b'[{"answer": "\xe9t\xe9"}]', "not UTF-8 (byte 0xe9); save the file as UTF-8"),
        ("", "holds no list"),
    ],
)
def test_wrong_files(
    annotated: Callable[..., Path],
    media: Callable[..., Path],
    source: Callable[..., Any],
    failing: Callable[..., str],
    content: str | bytes,
    said: str,
) -> None:
    path = annotated("val_qa.json", content)
    text = failing(import_msrvtt_qa, path, source(media("video1.mp4")))
    assert str(path) in text
    assert said in text


def test_a_vocabulary_that_is_none(
    annotated: Callable[..., Path],
    media: Callable[..., Path],
    source: Callable[..., Any],
    failing: Callable[..., str],
) -> None:
    path = annotated("val_qa.json", [])
    table = annotated("answers.json", "[1, 2]")
    text = failing(import_msrvtt_qa, path, source(media("video1.mp4")), table)
    assert f"{table}: not an answer vocabulary" in text


def test_two_files_of_one_split(
    annotated: Callable[..., Path],
    media: Callable[..., Path],
    source: Callable[..., Any],
    failing: Callable[..., str],
) -> None:
    annotated("val_qa.json", [])
    path = annotated("val.jsonl", [])
    text = failing(import_msrvtt_qa, path.parent, source(media("video1.mp4")))
    assert "are both val: name one of them" in text
