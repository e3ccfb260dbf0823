"""Names under which an evaluation's metrics are logged to MLflow.

MLflow's charts are grouped by what is before the last slash of a name, and sections and charts are in alphabetical
order. The headline metrics of a task keep their names and are alone in the first section, TASK; what they are compared
with and everything else is in sections that come after it. docs/how-to/tracking.md lists them.
"""

from collections.abc import Mapping

from clipbert.config.tasks import task_names
from clipbert.model.weights.card import INTERVALS, TRIVIAL
from clipbert.tasks import task_class


def tracked_metrics(metrics: Mapping[str, float]) -> dict[str, float]:
    """Return the metrics of an evaluation, `TASK/NAME`, by their names in MLflow."""
    return {tracked_name(name): float(value) for name, value in metrics.items()}


def tracked_name(name: str) -> str:
    """Return the name in MLflow of one metric; the name of a metric of no task is unchanged."""
    task, _, metric = name.partition("/")
    if task not in task_names() or any(metric == shown.metric for shown in task_class(task).report.headlines):
        return name
    if metric.endswith(INTERVALS):
        return f"{task}_intervals/{metric}"
    return f"{task}_{'baselines' if metric.startswith(TRIVIAL) else 'details'}/{metric}"
