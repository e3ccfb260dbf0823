"""TGIF-QA: the four real test files, and small ones in their layout."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from clipbert.data.importers.datasets.tgif_qa import import_tgif_qa

COUNT = "gif_name\tquestion\tanswer\tvid_id\tkey\r\n"
ACTION = "gif_name\tquestion\ta1\ta2\ta3\ta4\ta5\tanswer\tvid_id\tkey\n"


@pytest.mark.parametrize(
    ("task", "kind", "questions", "gifs"),
    [
        ("action", "multiple_choice", 2_274, 2_274),
        ("transition", "multiple_choice", 6_232, 3_116),
        ("frameqa", "open_qa", 13_691, 7_132),
        ("count", "open_qa", 3_554, 3_554),
    ],
)
def test_real_files(
    real: Path,
    named: Callable[..., Path],
    source: Callable[..., Any],
    rows: Callable[[str], list[dict[str, Any]]],
    task: str,
    kind: str,
    questions: int,
    gifs: int,
) -> None:
    path = real / "tgif_qa" / f"Test_{task}_question.csv"
    names = {line.split("\t")[0] for line in path.read_text().splitlines()[1:]}
    summary = import_tgif_qa(real / "tgif_qa", source(named(names, ".gif")), task)
    assert dict(summary.written) == {(kind, "test"): questions}
    assert len(summary.media) == gifs
    assert not summary.dropped
    assert f"test: {gifs} media, {questions} texts, as published" in summary.lines()
    found = rows(f"{kind}.jsonl")
    assert len({row["id"] for row in found}) == questions
    if task == "transition":
        assert any('respond "no"' in row["options"] for row in found)
        assert {len(row["options"]) for row in found} == {5}
    if task == "frameqa":
        assert {row["answer_type"] for row in found} == {"object", "number", "color", "location"}
    if task == "count":
        assert {row["answer"] for row in found} == {"0", *map(str, range(2, 11))}


def test_train_file_and_hold_out(
    annotated: Callable[..., Path], named: Callable[..., Path], source: Callable[..., Any]
) -> None:
    lines = "".join(f"tumblr_{i}\thow many ?\t{i % 10}\tCOUNT{i}\t{i}\r\n" for i in range(200))
    path = annotated("Train_count_question.csv", COUNT + lines)
    summary = import_tgif_qa(path, source(named((f"tumblr_{i}" for i in range(200)), ".gif"), val=0.2), "count")
    splits = summary.splits()
    assert splits["train"] + splits["val"] == 200
    assert 20 < splits["val"] < 60
    assert "no test split: --hold-out test=0.1 takes one from the training media" in summary.lines()


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ("t\tq\ta\tb\tc\td\te\tfour\tA1\t1\n", 'line 2: answer is "four", not a whole number'),
        ("t\tq\ta\tb\tc\td\te\t4\tA1\n", "line 2: 9 columns, but 10 in the header"),
        ('t\t"q\ta\tb\tc\td\te\t4\tA1\t1\n', "line 2: not a valid table (unexpected end of data)"),
    ],
)
def test_wrong_rows(
    annotated: Callable[..., Path],
    media: Callable[..., Path],
    source: Callable[..., Any],
    failing: Callable[..., str],
    row: str,
    said: str,
) -> None:
    path = annotated("Test_action_question.csv", ACTION + row)
    text = failing(import_tgif_qa, path, source(media("t.gif")), "action")
    assert f"{path}: {said}" in text


def test_wrong_column_and_empty_options(
    annotated: Callable[..., Path],
    media: Callable[..., Path],
    source: Callable[..., Any],
    failing: Callable[..., str],
) -> None:
    path = annotated(
        "Test_action_question.csv", ACTION.replace("gif_name", "gif_nam") + "t\tq\ta\tb\tc\td\te\t4\tA\t1\n"
    )
    text = failing(import_tgif_qa, path, source(media("t.gif")), "action")
    assert "line 2: no gif_name (did you mean gif_nam?), only gif_nam, question, a1" in text
    path = annotated(
        "Test_action_question.csv", ACTION + "t\tq\t \tb\tc\td\te\t4\tA\t1\nt\tq\ta\tb\tc\td\te\t9\tB\t1\n"
    )
    text = failing(import_tgif_qa, path, source(media("t.gif")), "action")
    assert "nothing to import: 1 with an empty option, 1 with answer 9 of 5 options" in text
