"""Promotion policies of tests."""

from typing import Any

from clipbert.config.promotion import LineagePolicy, TaskPolicy

ANY_LINEAGE = LineagePolicy(code="any", validated_data=False, no_leakage=False)


def task_policy(**changes: Any) -> TaskPolicy:
    """The default policy without requirements about the lineage, which models of tests do not have."""
    return TaskPolicy(lineage=ANY_LINEAGE, **changes)
