"""Predictions that notice their own damage, and metrics that belong to them."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from clipbert.errors import ClipBertError
from clipbert.evaluation.predictions_file import check_metrics, read_predictions_file, write_predictions

METRICS = {"retrieval/r1": 42.0, "retrieval/mrr": 51.5}


def items(count: int = 30) -> pd.DataFrame:
    draw = np.random.default_rng(0)
    return pd.DataFrame(
        {
            "item_id": [f"t{number}" for number in range(count)],
            "score": draw.random(count),
            "rank": draw.integers(1, 9, count),
            "best": [[f"v{number}", None] for number in range(count)],
            "answer": [None, "ä"] * (count // 2),
        }
    )


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    path = tmp_path / "retrieval.parquet"
    write_predictions(path, items(), METRICS)
    found, metrics = read_predictions_file(path)
    pd.testing.assert_series_equal(found["score"], items()["score"])
    assert found["best"].map(list).tolist() == items()["best"].tolist()
    assert metrics == METRICS


def test_damage_is_refused_or_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "retrieval.parquet"
    write_predictions(path, items(), METRICS)
    whole, draw = path.read_bytes(), np.random.default_rng(0)
    expected = items().to_json()
    refused = 0
    damages = [whole[:size] for size in range(0, len(whole), len(whole) // 20)]
    for offset in draw.integers(0, len(whole), 400):
        flipped = bytearray(whole)
        flipped[offset] ^= 1 << int(draw.integers(8))
        damages.append(bytes(flipped))
    for damaged in damages:
        path.write_bytes(damaged)
        try:
            found, metrics = read_predictions_file(path)
        except ClipBertError as error:
            refused += 1
            assert f"{path}: expected a table of predictions" in str(error)  # noqa: PT017
            assert "Evaluate again: clipbert evaluate retrieval" in str(error)  # noqa: PT017
        else:
            assert (found.to_json(), metrics) == (expected, METRICS)
    assert refused > len(damages) / 3


def test_edited_metrics_are_refused(tmp_path: Path) -> None:
    check_metrics(tmp_path / "retrieval.json", METRICS, METRICS)
    check_metrics(tmp_path / "retrieval.json", METRICS, None)
    with pytest.raises(ClipBertError, match=r"retrieval/r1 is 43\.0, but the evaluation computed 42\.0 from its pred"):
        check_metrics(tmp_path / "retrieval.json", METRICS | {"retrieval/r1": 43.0}, METRICS)


def test_predictions_of_another_task_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "open_qa.parquet"
    write_predictions(path, items(), METRICS)
    with pytest.raises(ClipBertError, match=r"open_qa\.parquet: expected predictions of open_qa, found those of r"):
        read_predictions_file(path, "open_qa")
