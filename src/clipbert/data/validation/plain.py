"""Values of tables as JSON holds them."""

import math
from collections.abc import Mapping
from typing import Any

import pandas as pd

SHOWN_VALUE = 80


def plain_row(row: Mapping[Any, Any]) -> dict[str, Any]:
    """Return a row with plain values."""
    return {str(key): _plain(value) for key, value in row.items()}


def _plain(value: Any) -> Any:
    """Return a value as JSON holds it, with long texts cut."""
    if hasattr(value, "item"):
        value = value.item()
    if value is None or value is pd.NA or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, float):
        return round(value, 6)
    if isinstance(value, bool | int):
        return value
    text = str(value)
    return text if len(text) <= SHOWN_VALUE else f"{text[: SHOWN_VALUE - 3]}..."
