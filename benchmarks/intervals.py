"""Confidence intervals that several benchmarks report."""

import math

Z_95 = 1.96


def interval(share: float, number: int) -> tuple[float, float]:
    """Return the 95 % interval of a share of `number` independent items (Wilson, 1927)."""
    middle = (share + Z_95**2 / (2 * number)) / (1 + Z_95**2 / number)
    variance = share * (1 - share) / number + Z_95**2 / (4 * number**2)
    half = Z_95 / (1 + Z_95**2 / number) * math.sqrt(variance)
    return max(0.0, middle - half), min(1.0, middle + half)
