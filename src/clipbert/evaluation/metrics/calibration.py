"""Calibration of confidences: expected calibration error, and the temperature that fits probabilities to answers."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

BINS = 15
LOW, HIGH = 0.05, 20.0
STEPS, ROUNDS = 41, 4
SMALLEST = 1e-30


def expected_calibration_error(confidences: Sequence[float], right: Sequence[bool], bins: int = BINS) -> float:
    """Return the mean gap between confidence and accuracy over bins of equal width, in percent.

    Naeini et al., AAAI 2015; Guo et al., ICML 2017.

    Args:
        confidences: of the given answers, 0 to 1.
        right: whether each is right.

    Raises:
        ValueError: no answers.
    """
    sure, correct = np.asarray(confidences, dtype=np.float64), np.asarray(right, dtype=np.float64)
    if len(sure) == 0:
        raise ValueError("confidences is empty: expected those of at least one answer.")
    place = np.minimum((sure * bins).astype(int), bins - 1)
    gaps = [abs(sure[place == each].sum() - correct[place == each].sum()) for each in range(bins)]
    return 100 * float(sum(gaps)) / len(sure)


def tempered(probabilities: NDArray[np.float64], temperature: float) -> NDArray[np.float64]:
    """Return probabilities (N, classes) after division of their logits by a temperature; 0 stays 0."""
    with np.errstate(divide="ignore"):
        logs = np.log(probabilities) / temperature
    shares = np.exp(logs - logs.max(axis=1, keepdims=True))
    found: NDArray[np.float64] = shares / shares.sum(axis=1, keepdims=True)
    return found


def fit_temperature(probabilities: NDArray[np.float64], right: NDArray[np.int64]) -> float:
    """Return the temperature from 0.05 to 20 with the smallest mean negative log-probability of the right classes.

    Args:
        probabilities: (N, classes).
        right: (N,) the right class of each row.

    Raises:
        ValueError: no rows.
    """
    if len(probabilities) == 0:
        raise ValueError("probabilities is empty: expected at least one row.")
    rows = np.arange(len(right))
    low, high, best = np.log(LOW), np.log(HIGH), 1.0
    for _ in range(ROUNDS):
        tried = np.exp(np.linspace(low, high, STEPS))
        losses = [-np.log(np.maximum(tempered(probabilities, each)[rows, right], SMALLEST)).mean() for each in tried]
        place = int(np.argmin(losses))
        best = float(tried[place])
        low, high = np.log(tried[max(place - 1, 0)]), np.log(tried[min(place + 1, STEPS - 1)])
    return best
