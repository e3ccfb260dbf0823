"""Promotion policies of tests."""

from pathlib import Path
from typing import Any

from clipbert.config.promotion import POLICY, LineagePolicy, TaskPolicy
from clipbert.config.yaml_io import dump_yaml

ANY_LINEAGE = LineagePolicy(code="any", validated_data=False, no_leakage=False)


def task_policy(**changes: Any) -> TaskPolicy:
    """The default policy without requirements about the lineage, which models of tests do not have."""
    return TaskPolicy(lineage=ANY_LINEAGE, **changes)


def write_policy(folder: Path, **changes: Any) -> Path:
    """Write mlflow/promotion.yaml with this policy for all tasks; return its path."""
    path = folder / POLICY
    path.parent.mkdir(exist_ok=True)
    path.write_text(dump_yaml({"default": task_policy(**changes).model_dump(), "tasks": {}}), encoding="utf-8")
    return path
