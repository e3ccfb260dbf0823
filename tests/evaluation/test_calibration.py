import numpy as np
import pytest

from clipbert.evaluation.metrics.calibration import expected_calibration_error, fit_temperature, tempered


def test_the_error_is_the_gap_between_confidence_and_accuracy() -> None:
    assert expected_calibration_error([0.9] * 10, [True] * 9 + [False]) == pytest.approx(0)
    assert expected_calibration_error([0.9] * 10, [True] * 5 + [False] * 5) == pytest.approx(40)
    # one bin is 20 points too sure, the other 30 too unsure; each has half of the answers
    right = [True] * 7 + [False] * 3 + [True] * 8 + [False] * 2
    assert expected_calibration_error([0.9] * 10 + [0.5] * 10, right) == pytest.approx(25)
    assert expected_calibration_error([1.0, 0.0], [True, False]) == 0
    with pytest.raises(ValueError, match="confidences is empty"):
        expected_calibration_error([], [])


@pytest.mark.parametrize("true_temperature", [0.4, 1.0, 3.0])
def test_the_temperature_that_made_the_probabilities_is_found(true_temperature: float) -> None:
    generator = np.random.default_rng(0)
    logits = generator.normal(0, 2, (20_000, 5))
    exact = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    right = (exact.cumsum(axis=1) > generator.random((len(exact), 1))).argmax(axis=1)
    seen = tempered(exact, 1 / true_temperature)  # too sure where the true temperature is above 1
    found = fit_temperature(seen, right)
    assert found == pytest.approx(true_temperature, rel=0.05)
    before, after = (
        expected_calibration_error(rows.max(axis=1).tolist(), (rows.argmax(axis=1) == right).tolist())
        for rows in (seen, tempered(seen, found))
    )
    assert after < 1.5
    assert after <= before + 0.2


def test_options_that_a_question_lacks_stay_impossible() -> None:
    found = tempered(np.array([[0.8, 0.2, 0.0], [0.3, 0.3, 0.4]]), 2.0)
    assert found[0, 2] == 0
    assert found.sum(axis=1) == pytest.approx(1)
    assert found[0, 0] == pytest.approx(2 / 3)
    with pytest.raises(ValueError, match="probabilities is empty"):
        fit_temperature(np.zeros((0, 3)), np.zeros(0, np.int64))
