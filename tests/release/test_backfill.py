"""Versions evaluated on today's test items: all or some, once for each state of the data, one failure stops nothing."""

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from small_releases import scored_items

from clipbert.errors import ClipBertError
from clipbert.evaluation.item_checks import read_predictions
from clipbert.project import Project
from clipbert.release import backfill as module
from clipbert.release.backfill import backfill
from clipbert.release.compared_models import ModelFinder

NAME = "clipbert"


def test_versions_are_evaluated_once_for_each_state_of_the_data(
    root: Path, release_embedded: Any, predictions: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = ["first data"]
    monkeypatch.setattr(module, "data_digest", lambda _: data[0])
    release_embedded(0, predictions(30))
    release_embedded(1, predictions(45))
    evaluated: list[dict[str, Any]] = []

    def evaluate(model: Path, recorded: Any) -> tuple[pd.DataFrame, dict[str, float]]:
        assert (model / "model.safetensors").is_file()
        evaluated.append(dict(recorded))
        if len(evaluated) == 1:
            raise ClipBertError("the cache has no frames")
        return predictions(20), {"retrieval/mrr": 33.33333}

    out = root / "artifacts/backfill/retrieval"
    found, aliases = backfill(root, "retrieval", NAME, evaluate, out)
    assert [(one.version, one.problem, one.metrics, one.items) for one in found] == [
        ("2", "the cache has no frames", {}, 0),
        ("1", None, {"retrieval/mrr": 33.3333}, 60),
    ]
    assert aliases == {"2": ["candidate"]}
    assert "clips" in evaluated[0], "the conditions of the registered evaluation"
    assert read_predictions(out / "1.parquet", "retrieval")["score"].sum() == 20

    found, _ = backfill(root, "retrieval", NAME, evaluate, out)
    assert [one.problem for one in found] == [None, None]
    assert len(evaluated) == 3, "version 1 is not evaluated again, version 2 is"
    data[0] = "more data"
    backfill(root, "retrieval", NAME, evaluate, out, ["1"])
    assert len(evaluated) == 4
    assert json.loads((out / "1.json").read_text())["data"] == "more data"
    backfill(root, "retrieval", NAME, evaluate, out, ["1"], again=True)
    assert len(evaluated) == 5


def test_a_version_that_does_not_exist_is_named(root: Path, release_embedded: Any, predictions: Any) -> None:
    def evaluate(model: Path, recorded: Any) -> Any:
        raise AssertionError

    with pytest.raises(ClipBertError, match=r"clipbert-retrieval: no version is registered in .*clipbert register"):
        backfill(root, "retrieval", NAME, evaluate, root / "out")
    release_embedded(0, predictions(30))
    with pytest.raises(ClipBertError, match=r"clipbert-retrieval has no version '7'; expected one of 1\."):
        backfill(root, "retrieval", NAME, evaluate, root / "out", ["1", "7"])


def test_a_comparison_takes_the_predictions_of_today_where_the_test_items_differ(
    root: Path, release_embedded: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A version that was registered before new test items came is compared by its evaluation on today's items."""
    data = ["old data"]
    monkeypatch.setattr(module, "data_digest", lambda _: data[0])
    release_embedded(0, scored_items(30))
    data[0] = "new data"
    release_embedded(1, scored_items(52, 64))
    names = ["models:/clipbert-retrieval/1", "models:/clipbert-retrieval/2"]

    def items() -> list[tuple[int, float]]:
        sources = ModelFinder(Project(root), NAME).load(names)
        return [(len(source.items), source.items["score"].sum()) for source in sources]

    assert items() == [(60, 30.0), (64, 52.0)]
    out = root / "artifacts/backfill/retrieval"
    backfill(root, "retrieval", NAME, lambda *_: (scored_items(33, 64), {"retrieval/mrr": 1.0}), out, ["1"])
    assert items() == [(64, 33.0), (64, 52.0)]
    data[0] = "newer data"
    assert items() == [(60, 30.0), (64, 52.0)], "an evaluation on other data is not used"
