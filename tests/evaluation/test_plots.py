"""The tables behind the plots: numbers that can be checked by hand, and the files that DVC reads."""

from pathlib import Path

import pandas as pd
from task_evaluations import captioning, open_qa, pretrain, retrieval

from clipbert.evaluation.plots import tables, write_tables


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
