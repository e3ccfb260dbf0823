"""Durations for readers."""

import pytest

from clipbert.durations import format_duration, format_rough_duration


@pytest.mark.parametrize(
    ("seconds", "exact", "rough"),
    [
        (0.2, "0 s", "1 s"),
        (45.4, "45 s", "45 s"),
        (59.7, "1 min 00 s", "60 s"),
        (138.2, "2 min 18 s", "2 min"),
        (3599.9, "1 h 00 min", "60 min"),
        (3600, "1 h 00 min", "60 min"),
        (12360, "3 h 26 min", "3.4 h"),
    ],
)
def test_exact_and_rough(seconds: float, exact: str, rough: str) -> None:
    assert format_duration(seconds) == exact
    assert format_rough_duration(seconds) == rough
