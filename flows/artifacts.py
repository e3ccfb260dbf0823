"""Artifacts of a flow run in the Prefect UI: a table of stages, a table of metrics, links to MLflow."""

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from prefect.artifacts import create_link_artifact, create_table_artifact

from clipbert.redact import redact
from flows.stage import StageResult

Metrics = dict[str, dict[str, Any]]

MLFLOW_UI = "http://127.0.0.1:5000"


def read_results(folder: Path) -> Metrics:
    """Return the JSON objects in `folder` by file name, {"retrieval": {...}, ...}; empty if there is no folder."""
    return {file.stem: read_result(file) for file in sorted(folder.glob("*.json"))}


def read_result(file: Path) -> dict[str, Any]:
    """Return the JSON object in `file`; empty if there is no such file."""
    return json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}


def publish_stages(results: Iterable[StageResult], problems: dict[str, str]) -> None:
    """Publish the table `clipbert-stages`: the outcome and duration of each stage."""
    rows = [{"stage": r.stage, "outcome": r.outcome, "seconds": round(r.seconds, 1)} for r in results]
    rows += [{"stage": stage, "outcome": problem, "seconds": None} for stage, problem in problems.items()]
    create_table_artifact(table=rows, key="clipbert-stages", description="Outcome of each stage in this run")


def publish_metrics(metrics: Metrics, before: Metrics) -> None:
    """Publish the table `clipbert-metrics`: each metric of each task, with its value before this run."""
    rows = [
        {"task": task, "metric": name, "value": _short(value), "before": _short(before.get(task, {}).get(name))}
        for task, values in metrics.items()
        for name, value in values.items()
    ]
    if rows:
        create_table_artifact(table=rows, key="clipbert-metrics", description="Metrics on the test split")


def publish_links(runs: Metrics, releases: Metrics) -> None:
    """Publish links to the MLflow run and the registered version of each task.

    The embedded store has no server of its own; its links lead to `make ui`, at CLIPBERT_MLFLOW_UI.
    """
    for task, run in runs.items():
        server = mlflow_server(run.get("tracking_uri", ""))
        create_link_artifact(
            key=f"clipbert-run-{artifact_key(task)}",
            link=f"{server}/#/runs/{run['run_id']}",
            link_text=f"MLflow run of {task}: {run.get('run_name', run['run_id'])}",
            description=f"The training run of {task}. If the page does not open: `make ui` starts MLflow.",
        )
    for task, release in releases.items():
        server = mlflow_server(runs.get(task, {}).get("tracking_uri", ""))
        name, version = release["name"], release["version"]
        create_link_artifact(
            key=f"clipbert-model-{artifact_key(task)}",
            link=f"{server}/#/models/{name}/versions/{version}",
            link_text=f"{name} version {version}",
            description=f"The registered model of {task}. If the page does not open: `make ui` starts MLflow.",
        )


def artifact_key(task: str) -> str:
    """Return `task` with only the characters that Prefect allows in an artifact's key."""
    return task.replace("_", "-")


def _short(value: Any) -> Any:
    return round(value, 4) if isinstance(value, float) else value


def mlflow_server(tracking_uri: str) -> str:
    """Return the address of MLflow's pages for a tracking URI, without credentials."""
    if tracking_uri.startswith(("http://", "https://")):
        return _without_user(tracking_uri.rstrip("/"))
    return _without_user(os.environ.get("CLIPBERT_MLFLOW_UI", MLFLOW_UI))


def _without_user(address: str) -> str:
    """Return a link without credentials."""
    return redact(address).replace("***@", "")
