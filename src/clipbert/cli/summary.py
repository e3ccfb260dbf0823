"""Summary of a project: metrics with intervals and baselines, verdicts, registered versions, where to look next."""

import json
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table

from clipbert.config.schema import Params
from clipbert.console import console
from clipbert.errors import ClipBertError
from clipbert.project import Project
from clipbert.tasks import task_class


def print_summary(project: Project, params: Params) -> None:
    """Print the metrics of the pipeline's tasks, their registered versions, and where to look next.

    Raises:
        ClipBertError: no task was evaluated yet, or a metrics file is damaged.
    """
    pipeline: list[str] = [*params.pretrain_run, *params.tasks_run]
    tasks = [task for task in pipeline if project.metrics(task).exists()]
    if not tasks:
        raise ClipBertError(f"{project.artifacts / 'metrics'}: nothing was evaluated yet; run `dvc repro` first.")
    table = Table(title="Test split", title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("metric", no_wrap=True)
    table.add_column("this model", justify="right", style="bold")
    table.add_column("95 % interval", justify="right")
    table.add_column("chance or majority", justify="right")
    table.add_column("blank frames", justify="right")
    for task in tasks:
        metrics = _metrics(project, task)
        for shown in task_class(task).report.headlines:
            if shown.row is not None and not (shown.optional and f"{task}/{shown.metric}" not in metrics):
                keys = [shown.metric, *(metric for _, metric in shown.compared_with[:2])]
                numbers = [_number(project, task, metrics, f"{task}/{key}") for key in keys]
                interval = _interval(project, task, metrics, f"{task}/{shown.metric}")
                own, *others = (f"{number:.1f}" for number in numbers)
                table.add_row(shown.row, own, interval, *others)
    console.print(table)
    for task in tasks:
        _print_verdict(project, task)
    if missing := [task for task in pipeline if task not in tasks]:
        console.print(f"Not evaluated yet: {', '.join(missing)}. Run `dvc repro`.\n")
    _print_versions(project, params, tasks)
    console.print("Where to look", style="bold")
    places = [
        *((f"{task} report", _relative(project, project.report(task))) for task in tasks),
        ("validation pages", _relative(project, project.validation / "index.html")),
        ("metrics, plots", "dvc metrics show    dvc plots show"),
        ("MLflow and Prefect", "make ui"),
    ]
    width = max(len(name) for name, _ in places)
    for name, place in places:
        console.print(f"  {name:<{width}}  {place}")


def _print_verdict(project: Project, task: str) -> None:
    """Print what the predictions of a task show, in sentences."""
    from clipbert.evaluation.predictions_file import read_predictions_file
    from clipbert.evaluation.verdict import verdict

    path = project.predictions(task)
    if not path.exists():
        console.print(
            f"{task}: no verdict without {_relative(project, path)}. Evaluate again: clipbert evaluate {task}\n"
        )
        return
    console.print(f"{task}", style="bold")
    for finding in verdict(task, read_predictions_file(path, task)[0]):
        console.print(f"  {finding.text}")
    console.print()


def _print_versions(project: Project, params: Params, tasks: list[str]) -> None:
    """Print the version of each task's model in the registry, and the next command."""
    from clipbert.release.alias_audit import aliases_past_gate
    from clipbert.release.registry import registry_state

    digests = {task: digest for task in tasks if (digest := _digest(project, task)) is not None}
    try:
        found = registry_state(project.root, digests, params.release.name)
    except ClipBertError as error:
        console.print(f"Registered models: the registry's state is unknown.\n{error}\n")
        return
    title = f"Registered models in {found.store}"
    versions = Table(
        title=title,
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        collapse_padding=True,
    )
    for column in ("name", "version", "aliases", "champion", "next"):
        versions.add_column(column, overflow="fold", no_wrap=column != "aliases")
    absent = []
    for task in tasks:
        state = found.tasks.get(task)
        if state is None:
            versions.add_row(f"{params.release.name}-{task}", "no model", "", "", f"dvc repro train@{task}")
            continue
        if state.version is None:
            absent.append(task)
        version = state.version or "none here"
        champion = state.champion or "none"
        versions.add_row(state.name, version, ", ".join(state.aliases), champion, state.next_command)
    console.print(versions)
    try:
        for words in aliases_past_gate(project.root, tasks, params.release.name).values():
            console.print(f"{words}\n", style="red")
    except ClipBertError as error:
        console.print(f"The aliases could not be compared with the ledger: {error}\n")
    for task in absent:
        console.print(
            f"This store has no version of the {task} model in {_relative(project, project.model(task))}: "
            f"`clipbert register {task}` registers it.",
        )
    if absent:
        console.print()


def _digest(project: Project, task: str) -> str | None:
    from clipbert.release.registry import model_digest

    try:
        return model_digest(project.model(task))
    except ClipBertError:
        return None


def _metrics(project: Project, task: str) -> dict[str, Any]:
    path = project.metrics(task)
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ClipBertError(f"{path}: damaged ({error}). {_remedy(project, task)}") from error
    if not isinstance(value, dict):
        raise ClipBertError(f"{path}: expected a JSON object, found {type(value).__name__}. {_remedy(project, task)}")
    return value


def _number(project: Project, task: str, metrics: dict[str, Any], name: str) -> float:
    value = metrics.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float):
        found = "is missing" if name not in metrics else f"is {str(value)[:40]!r}, expected a number"
        raise ClipBertError(f"{project.metrics(task)}: {name} {found}. {_remedy(project, task)}")
    return value


def _interval(project: Project, task: str, metrics: dict[str, Any], name: str) -> str:
    """Return the confidence interval of a metric; empty where an evaluation has none."""
    ends = f"{name}_ci_low", f"{name}_ci_high"
    if not any(end in metrics for end in ends):
        return ""
    low, high = (_number(project, task, metrics, end) for end in ends)
    return f"{low:.1f} to {high:.1f}"


def _remedy(project: Project, task: str) -> str:
    path = _relative(project, project.metrics(task))
    return f"Restore it with `dvc checkout {path}`, or evaluate again: `clipbert evaluate {task}`."


def _relative(project: Project, path: Path) -> str:
    return str(path.relative_to(project.root))
