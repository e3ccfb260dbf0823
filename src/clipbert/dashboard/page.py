"""The dashboard: one self-contained page about champions, experiments, data, pipeline runs and decisions."""

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from clipbert.dashboard.charts import growth_chart, parallel_chart, scatter_chart, versions_chart
from clipbert.dashboard.data_history import data_sizes, last_validation
from clipbert.dashboard.experiments import Experiment, read_experiments
from clipbert.errors import ClipBertError
from clipbert.files.atomic import atomic_write
from clipbert.pages.page import render_page
from clipbert.project import Project
from clipbert.redact import redact
from clipbert.release.alias_audit import aliases_past_gate
from clipbert.release.history import Event, events
from clipbert.release.ledger import Ledger
from clipbert.release.store import tracking_uri
from clipbert.release.versions import RegisteredVersion, registered_versions
from clipbert.tasks import task_class
from clipbert.tasks.presentation import Headline

FLOW_RUNS = "flow_runs.jsonl"  # in artifacts/; flows/run_log.py appends to it
MLFLOW_UI, PREFECT_UI = "http://127.0.0.1:5000", "http://127.0.0.1:4200"
SHOWN_RUNS = SHOWN_DECISIONS = 12
Found = TypeVar("Found")


@dataclass(frozen=True)
class TaskOverview:
    """What the page shows of a task; text in place of what there is not yet."""

    task: str
    title: str
    metric: str
    champion: RegisteredVersion | None
    headline: str
    interval: str
    versions: list[RegisteredVersion]
    versions_chart: str | None
    champion_words: str
    experiments: list[Experiment]
    parallel: str | None
    scatter: str | None
    has_report: bool


def write_dashboard(project: Project, tasks: list[str], release_name: str) -> Path:
    """Write artifacts/dashboard/index.html and return its path.

    What cannot be read, such as a registry on a server that does not answer, is named on the page.

    Args:
        tasks: the tasks of the pipeline.
        release_name: release.name.
    """
    problems: list[str] = []
    versions = _read(problems, lambda: registered_versions(project.root, tasks, release_name), None)
    experiments = _read(problems, lambda: read_experiments(project.root, tasks), list[Experiment]())
    decisions = _read(problems, lambda: _decisions(project.root), list[Event]())
    if versions is not None:
        past_gate = _read(problems, lambda: aliases_past_gate(project.root, tasks, release_name), dict[str, str]())
        problems += past_gate.values()
    sizes = data_sizes(project.root)
    server = os.environ.get("MLFLOW_TRACKING_URI", "")
    page = render_page(
        "clipbert.dashboard",
        "dashboard.html.j2",
        ("dashboard.css",),
        "dashboard.js",
        written=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        tasks=[_task(project, task, versions, experiments) for task in tasks],
        validation=last_validation(project),
        sizes=sizes,
        growth=growth_chart(sizes) if len(sizes) > 1 else None,
        runs=_flow_runs(project)[:SHOWN_RUNS],
        decisions=decisions[:SHOWN_DECISIONS],
        problems=problems,
        mlflow=redact(server).replace("***@", "")
        if server.startswith("http")
        else _ui("CLIPBERT_MLFLOW_UI", MLFLOW_UI),
        prefect=_ui("CLIPBERT_PREFECT_UI", PREFECT_UI),
        store=redact(tracking_uri(project.root)) if server else "mlflow/mlflow.db",
        has_validation_page=(project.validation / "index.html").is_file(),
    )
    with atomic_write(project.dashboard, "w") as file:
        file.write(page)
    return project.dashboard


def _task(
    project: Project, task: str, found: dict[str, list[RegisteredVersion]] | None, experiments: list[Experiment]
) -> TaskOverview:
    headline = task_class(task).report.headlines[0]
    versions = [] if found is None else found[task]
    champion = next((one for one in versions if one.is_champion), None)
    own = [one for one in experiments if one.task == task and (one.kind == "experiment" or one.name != "workspace")]
    finished = [one for one in own if one.test is not None]
    shown = champion or (versions[-1] if versions else None)
    measured = [one for one in versions if f"{task}/{headline.metric}" in one.metrics]
    return TaskOverview(
        task=task,
        title=task_class(task).report.title,
        metric=headline.card,
        champion=champion,
        headline=_value(headline, task, shown),
        interval=_interval(headline, task, shown),
        versions=versions,
        versions_chart=versions_chart(task, headline.metric, measured) if measured else None,
        champion_words=_words(task, found, versions, champion),
        experiments=sorted(own, key=lambda one: -(one.validation if one.validation is not None else -1e9)),
        parallel=parallel_chart(finished) if len(finished) > 1 else None,
        scatter=scatter_chart(finished) if len([one for one in finished if one.seconds is not None]) > 1 else None,
        has_report=project.report(task).is_file(),
    )


def _words(
    task: str,
    found: dict[str, list[RegisteredVersion]] | None,
    versions: list[RegisteredVersion],
    champion: RegisteredVersion | None,
) -> str:
    if found is None:
        return "No champion: the MLflow database does not exist yet. The first training creates it."
    if not versions:
        return f"No version is registered yet. `clipbert register {task}` registers the trained model."
    if champion is None:
        return f"No champion yet. `clipbert promote {task}` promotes the candidate if it beats the baselines."
    return f"Version {champion.version} is the champion, registered {champion.created.replace('T', ' ')[:16]} UTC."


def _value(headline: Headline, task: str, version: RegisteredVersion | None) -> str:
    if version is None or f"{task}/{headline.metric}" not in version.metrics:
        return ""
    return headline.format(task, version.metrics, headline.metric)


def _interval(headline: Headline, task: str, version: RegisteredVersion | None) -> str:
    ends = [f"{headline.metric}_ci_low", f"{headline.metric}_ci_high"]
    if version is None or any(f"{task}/{end}" not in version.metrics for end in ends):
        return ""
    return " to ".join(headline.format(task, version.metrics, end) for end in ends)


def _decisions(root: Path) -> list[Event]:
    """Return the decisions in the ledger, the newest first, without repairing anything."""
    with Ledger(root) as ledger:
        return events(ledger.entries())[::-1]


def _flow_runs(project: Project) -> list[dict[str, Any]]:
    """Return the recorded runs of the pipeline's flow, the newest first; damaged lines are left out."""
    try:
        lines = (project.artifacts / FLOW_RUNS).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return []
    found = []
    for line in lines:
        try:
            run = json.loads(line)
            found.append({key: str(run[key]) for key in ("started", "name", "state", "message")} | {
                "minutes": f"{float(run['seconds']) / 60:.1f}", "scheduled": bool(run["scheduled"])})  # fmt: skip
        except (ValueError, KeyError, TypeError):
            continue
    return found[::-1]


def _read(problems: list[str], read: Callable[[], Found], otherwise: Found) -> Found:
    """Return what `read` returns, or `otherwise` after its error became one of the page's problems."""
    try:
        return read()
    except ClipBertError as error:
        problems.append(str(error))
        return otherwise


def _ui(variable: str, default: str) -> str:
    return redact(os.environ.get(variable) or default).replace("***@", "")
