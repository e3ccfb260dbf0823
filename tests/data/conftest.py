"""Canonical data to ingest."""

from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture
def data(tmp_path: Path, tiny_data: Callable[..., Path]) -> Path:
    """Four tiny videos (two train, one val, one test) with a caption each."""
    return tiny_data(tmp_path / "data")
