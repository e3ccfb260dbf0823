"""Early stopping, from the rows of the validations."""

import math

from clipbert.training.early_stopping import epochs_since_best, out_of_patience


def rows(*values: float) -> list[dict[str, float]]:
    return [{"step": 10 * epoch, "epoch": epoch, "task/score": value} for epoch, value in enumerate(values, start=1)]


def test_epochs_are_counted_from_the_first_of_the_best() -> None:
    assert epochs_since_best([], "task/score") == 0
    assert epochs_since_best(rows(1.0), "task/score") == 0
    assert epochs_since_best(rows(1.0, 3.0, 2.0, 3.0), "task/score") == 2
    assert epochs_since_best(rows(1.0, 2.0, 3.0), "task/score") == 0
    assert epochs_since_best(rows(math.nan, 2.0, math.nan), "task/score") == 1


def test_two_validations_in_an_epoch_are_one_epoch() -> None:
    more = [{"step": 5, "epoch": 1, "task/score": 9.0}, *rows(1.0, 2.0)]
    assert epochs_since_best(more, "task/score") == 1


def test_training_ends_when_patience_is_used_up() -> None:
    assert not out_of_patience(rows(3.0, 2.0, 1.0), "task/score", 3)
    assert out_of_patience(rows(3.0, 2.0, 1.0, 0.0), "task/score", 3)
    assert not out_of_patience(rows(3.0, 2.0, 1.0, 0.0), "task/score", None)
    assert not out_of_patience([], "task/score", 1)
