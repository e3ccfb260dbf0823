"""Benchmarks run rarely: each must import, also when what it imports from the package moves."""

import importlib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MODULES = sorted(path.relative_to(ROOT) for path in (ROOT / "benchmarks").rglob("*.py"))


@pytest.mark.parametrize("path", MODULES, ids=str)
def test_a_benchmark_imports(path: Path) -> None:
    importlib.import_module(".".join(path.with_suffix("").parts))
