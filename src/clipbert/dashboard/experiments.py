"""Experiments of a project, as `dvc exp show` knows them: changed parameters, metrics, cost."""

import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from clipbert.config.training import RUNTIME_ONLY
from clipbert.errors import ClipBertError
from clipbert.redact import redact, redact_values
from clipbert.tasks import task_class

# Parameters that say what to run and how, not what is computed.
UNINTERESTING = frozenset({"tasks_run", "pretrain_run", *(f"train.{name}" for name in RUNTIME_ONLY)})
FAILED = ("failed", "killed")


@dataclass(frozen=True)
class Experiment:
    """One task of an experiment, of a commit, or of the workspace.

    Attributes:
        name: of the experiment or branch, or "workspace".
        kind: whether it is an experiment or a state of the project that experiments start from.
        created: time of the commit in ISO 8601; None for the workspace.
        changes: the parameters that differ from the commit that the experiment started from, by dotted path.
        params: all parameters, by dotted path.
        metric: the name of the task's first headline metric, such as "R@1".
        test, low, high: that metric on the test split and its 95 % interval.
        validation_metric: the name of the metric that chooses the epoch.
        validation: that metric of the best epoch, on the validation split.
        seconds, tflop, parameters, joules: the cost of the training and the size of the model.
    """

    name: str
    task: str
    kind: str
    revision: str
    created: str | None
    state: str
    changes: dict[str, Any]
    params: dict[str, Any] = field(repr=False)
    metric: str
    test: float | None
    low: float | None
    high: float | None
    validation_metric: str
    validation: float | None
    seconds: float | None
    tflop: float | None
    parameters: float | None
    joules: float | None

    def to_json(self) -> dict[str, Any]:
        """Return the experiment as `clipbert experiments --json` prints it."""
        return {name: value for name, value in asdict(self).items() if name != "params"}


def read_experiments(root: Path, tasks: list[str]) -> list[Experiment]:
    """Return the experiments of the project, one entry for each task that it trained, the newest last.

    An experiment contains the metrics of all tasks; those of tasks that it did not train are those of the commit that
    it started from, and are left out. So are those of an experiment that failed.

    Args:
        root: the project's folder.
        tasks: the tasks to look for.

    Raises:
        ClipBertError: DVC cannot list them.
    """
    return listed(_show(root), tasks)


def listed(shown: list[dict[str, Any]], tasks: list[str]) -> list[Experiment]:
    """Return the entries of `read_experiments` from what `dvc exp show --json` prints."""
    found = []
    for baseline in shown:
        name = "workspace" if baseline["rev"] == "workspace" else baseline.get("name") or baseline["rev"][:7]
        start = _content(baseline)
        found += [
            entry
            for task in tasks
            if (entry := _entry(name, task, "commit", baseline, start, {}, "finished")) and entry.test is not None
        ]
        for experiment in baseline.get("experiments") or []:
            revision = experiment["revs"][0]
            found += _of_experiment(experiment, revision, start, tasks)
    return found


def _of_experiment(
    experiment: dict[str, Any], revision: dict[str, Any], start: dict[str, Any], tasks: list[str]
) -> list[Experiment]:
    content = _content(revision)
    state = str((experiment.get("executor") or {}).get("state") or "finished").lower()
    name = experiment.get("name") or revision.get("name") or revision["rev"][:7]
    changes = {
        key: value
        for key, value in content["params"].items()
        if key not in UNINTERESTING and value != start["params"].get(key)
    }
    found = []
    for task in tasks:
        own = {key: value for key, value in changes.items() if _concerns(key, task)}
        # a failed or running experiment shows the metrics of the commit that it started from
        if state in FAILED or _results(content, task) == _results(start, task):
            content_of_task = {**content, "metrics": {}}
        else:
            content_of_task = content
        trained = content_of_task["metrics"] or (state != "finished" and own)
        if trained and (entry := _entry(name, task, "experiment", revision, content_of_task, own, state)):
            found.append(entry)
    return found


def _entry(
    name: str,
    task: str,
    kind: str,
    revision: dict[str, Any],
    content: Mapping[str, Any],
    changes: dict[str, Any],
    state: str,
) -> Experiment | None:
    headline, main = task_class(task).report.headlines[0], task_class(task).evaluator_class.main_metric
    metrics: dict[str, Any] = {}
    for path in _files(task):
        metrics |= content["metrics"].get(path) or {}
    short = main.removeprefix(f"{task}/")
    test = f"{task}/{headline.metric}"
    return Experiment(
        name=name,
        task=task,
        kind=kind,
        revision=revision["rev"],
        created=(revision.get("data") or {}).get("timestamp"),
        state=state,
        changes=redact_values(changes),
        params=redact_values(content["params"]),
        metric=headline.card,
        test=_number(metrics, test),
        low=_number(metrics, f"{test}_ci_low"),
        high=_number(metrics, f"{test}_ci_high"),
        validation_metric=short,
        validation=_number(metrics, f"{task}_val/{short}"),
        **{key: _number(metrics, f"{task}_cost/{key}") for key in ("seconds", "tflop", "parameters", "joules")},
    )


def _show(root: Path) -> list[dict[str, Any]]:
    """Return what `dvc exp show --json` prints."""
    command = [sys.executable, "-m", "dvc", "exp", "show", "--json"]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)
    try:
        shown = json.loads(done.stdout) if done.returncode == 0 else None
    except ValueError:
        shown = None
    if not isinstance(shown, list):
        lines = redact(done.stderr).strip().splitlines()
        raise ClipBertError(
            f"{root}: DVC cannot list the experiments: {lines[-1] if lines else f'exit code {done.returncode}'}. "
            "Experiments need a DVC project in a git repository with a commit; `dvc exp show` says more."
        )
    return [entry for entry in shown if isinstance(entry, dict) and entry.get("data")]


def _content(revision: dict[str, Any]) -> dict[str, Any]:
    """Return a revision's flat parameters, metrics by file and digests of outputs by path.

    Files that DVC cannot read are left out.
    """
    data = revision.get("data") or {}
    params = ((data.get("params") or {}).get("params.yaml") or {}).get("data") or {}
    metrics = {
        path: file["data"] for path, file in (data.get("metrics") or {}).items() if isinstance(file.get("data"), dict)
    }
    outs = {path: out.get("hash") for path, out in (data.get("outs") or {}).items()}
    return {"params": flat(params), "metrics": metrics, "outs": outs}


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested parameters by dotted path."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return found


def _files(task: str) -> tuple[str, str]:
    """Return the metrics files of the training and of the evaluation, as dvc.yaml names them."""
    return f"artifacts/training/{task}.json", f"artifacts/metrics/{task}.json"


def _results(content: Mapping[str, Any], task: str) -> tuple[list[Any], dict[str, Any]]:
    """Return what differs between two trainings of the task: its metrics and the digests of its outputs.

    The metrics alone do not tell: those of two short trainings can be equal to the last digit that is kept.
    """
    outs = {path: value for path, value in content["outs"].items() if Path(path).stem == task}
    return [content["metrics"].get(path) for path in _files(task)], outs


def _concerns(key: str, task: str) -> bool:
    return not key.startswith("tasks.") or key.startswith(f"tasks.{task}.")


def _number(metrics: Mapping[str, Any], name: str) -> float | None:
    value = metrics.get(name)
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
