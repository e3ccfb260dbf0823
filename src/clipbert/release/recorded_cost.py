"""Cost of a training and its evaluation, as recorded in files of the pipeline and in MLflow."""

from collections.abc import Mapping
from typing import Any

from clipbert.release.metric_names import tracked_name

FLOPS_OF_TFLOP = 1e12


def recorded_cost(values: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    """Return what `training_metrics.training_cost` recorded, by the keys of `comparison.source.COSTS`.

    Args:
        prefix: of the names in `values`.
    """
    found = {
        key: float(values[f"{prefix}{key}"])
        for key in ("seconds", "joules", "parameters")
        if f"{prefix}{key}" in values
    }
    if (tflop := values.get(f"{prefix}tflop")) is not None:
        found["flops"] = FLOPS_OF_TFLOP * float(tflop)
    return found


def cost_of_run(run: Any, task: str) -> dict[str, float]:
    """Return the cost of its training that an MLflow run has, and what its evaluation measured: time per item, size."""
    metrics, info = run.data.metrics, run.info
    found = recorded_cost(metrics, f"{task}_cost/")
    is_timed = info.status == "FINISHED" and info.end_time and "clipbert.restored" not in run.data.tags
    if "seconds" not in found and is_timed:  # of an older version of clipbert
        found["seconds"] = (info.end_time - info.start_time) / 1000
    for key in ("ms_per_item", "model_mb"):
        if (value := metrics.get(tracked_name(f"{task}/{key}"))) is not None:
            found[key] = value
    return found
