"""What a report says about the training: what was recorded, and nothing that was not."""

from dataclasses import replace

import pandas as pd
import pytest
from task_evaluations import training

from clipbert.evaluation.report.origin import Origin, changed_parameters, facts

EMPTY = pd.DataFrame()


def test_every_fact_is_said() -> None:
    described = training("open_qa")
    origin = replace(described.origin, version=("clipbert-open_qa", "3"))
    found = facts(origin, described.history, described.validation, described.main_metric)
    assert {fact.name: fact.value for fact in found} == {
        "data": "train 2 videos, 5 texts; test 1 videos, 4 texts",
        "data digest": "06a540fb13514a6c.dir",
        "git commit": "8a36244649dd with uncommitted changes, clipbert 0.3.0",
        "parameters": "1 differ from the defaults",
        "device": "cpu (2 cores, x86_64)",
        "duration": "2 min 18 s, 3 steps, best epoch 1 of 2",
        "energy": "1.0 Wh (3.6 kJ)",
        "started": "2026-11-28 01:00 UTC",
        "MLflow run": "open_qa of the test",
        "model version": "clipbert-open_qa version 3",
    }
    assert [fact.link for fact in found if fact.link] == [
        "http://127.0.0.1:5000/#/runs/0123456789abcdef",
        "http://127.0.0.1:5000/#/models/clipbert-open_qa/versions/3",
    ]
    assert [fact.notes for fact in found if fact.notes] == [["train.lr: 0.002 (default 0.001)"]]


def test_what_was_not_recorded_is_left_out() -> None:
    found = facts(Origin({}, {}, {}), EMPTY, EMPTY, "open_qa/accuracy")
    assert {fact.name: fact.value for fact in found} == {
        "data digest": "none: data/ is not tracked by DVC",
        "git commit": "none",
        "parameters": "all at their defaults",
    }


@pytest.mark.parametrize(
    ("uri", "server"),
    [
        ("https://mlflow.example/", "https://mlflow.example"),
        ("https://user:secret@mlflow.example", "https://mlflow.example"),
        ("sqlite:///mlflow/mlflow.db", "http://127.0.0.1:5050"),
    ],
)
def test_a_run_links_to_its_server_without_credentials(uri: str, server: str) -> None:
    origin = Origin({"run_id": "abc", "tracking_uri": uri}, {}, {}, ui="http://127.0.0.1:5050")
    (link,) = [fact.link for fact in facts(origin, EMPTY, EMPTY, "x") if fact.link]
    assert link == f"{server}/#/runs/abc"


def test_numbers_that_are_written_differently_are_equal() -> None:
    defaults = {"train.lr": 0.001, "train.budget": None, "train.batch_size": 32, "seed": 0}
    params = {"train.lr": "1e-3", "train.budget": "None", "train.batch_size": "64", "of.another.version": "x"}
    assert changed_parameters(params, defaults) == {"train.batch_size": ("64", "32")}
