"""The tables behind the plots: numbers that can be checked by hand, and the files that DVC reads."""

from pathlib import Path

import pandas as pd
import pytest
import yaml
from task_evaluations import captioning, image_qa, multiple_choice, open_qa, pretrain, retrieval

from clipbert.evaluation.plots import tables, write_charts
from clipbert.evaluation.run import Evaluation
from clipbert.tasks import task_class


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


@pytest.mark.parametrize(
    "evaluation",
    [retrieval(), open_qa(), multiple_choice(), image_qa(), captioning(), pretrain()],
    ids=lambda evaluation: evaluation.task,
)
def test_every_task_writes_the_charts_that_dvc_yaml_names(evaluation: Evaluation, tmp_path: Path) -> None:
    main = task_class(evaluation.task).evaluator_class.main_metric
    history = pd.DataFrame({"step": [1, 2], "loss": [3.0, 2.0], "lr": [0.1, 0.1]})
    write_charts(evaluation, history, pd.DataFrame({"step": [2], main: [10.0]}), main, tmp_path)
    declared = yaml.safe_load((Path(__file__).parents[2] / "dvc.yaml").read_text())["stages"]["evaluate"]["plots"]
    columns = {Path(path).name: {props["x"], props["y"]} for plot in declared for path, props in plot.items()}
    assert {path.name: set(pd.read_csv(path).columns) for path in tmp_path.iterdir()} == columns
    test = pd.read_csv(tmp_path / "test.csv")
    headline = task_class(evaluation.task).report.headlines[0]
    assert test["name"][0] == f"{headline.card}, this model"
    assert test["score"][0] == pytest.approx(evaluation.metrics[f"{evaluation.task}/{headline.metric}"])


def test_the_breakdown_shows_question_types_and_some_ranks(tmp_path: Path) -> None:
    history = pd.DataFrame({"step": [1], "loss": [3.0]})
    for evaluation, metric in ((retrieval(), "retrieval/mrr"), (open_qa(), "open_qa/accuracy")):
        validation = pd.DataFrame({"step": [1], metric: [10.0]})
        write_charts(evaluation, history, validation, metric, tmp_path / evaluation.task)
    ranks = pd.read_csv(tmp_path / "retrieval" / "breakdown.csv")
    assert ranks["name"].tolist() == ["k = 1", "k = 2"]
    assert ranks["score"].tolist() == tables(retrieval())["recall"]["recall"].tolist()[:2]
    types = pd.read_csv(tmp_path / "open_qa" / "breakdown.csv")
    assert types.to_dict("list") == {"name": ["color (2)", "count (1)"], "score": [50.0, 100.0]}
