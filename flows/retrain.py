"""Retraining as a Prefect flow: new data, all stages as a DVC experiment, and promotion by policy.

`python -m flows.retrain`, or the deployment `retrain` in prefect.yaml.
"""

import argparse
import json
import sys
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

from prefect import flow, get_run_logger
from prefect.artifacts import create_markdown_artifact
from prefect.client.schemas.objects import State
from prefect.deployments import run_deployment
from prefect.exceptions import ObjectNotFound
from prefect.runtime import flow_run
from prefect.states import Completed, Failed
from pydantic import Field

from clipbert.config.schema import Params
from clipbert.redact import install_redaction
from flows import PROJECT
from flows.artifacts import read_result
from flows.data_commit import has_uncommitted_batches
from flows.graph import GraphError, read_graph, select
from flows.inbox import TaskFailedError, has_inbox, outcome, receive, run_task, summary
from flows.overrides import Value, apply_overrides, check_overrides, restore_params
from flows.parameters import ParameterError, check_task_name, project_folder
from flows.pipeline import StageOptions, run_stages
from flows.project_lock import flow_run_lock
from flows.supervisor import Supervisor
from flows.temporary_server import run_from_terminal

PROMOTE = "clipbert-promote/promote"  # the deployment with the approval form
PENDING = "pending"  # decision about a candidate that a person has to approve


@dataclass
class Retraining:
    """What a retraining did, step by step; the artifact shows it.

    Attributes:
        experiment: name of the DVC experiment; None: no stage had work.
        decisions: of each task, as in artifacts/promotions/TASK.json; empty if `clipbert promote` decided nothing.
    """

    overrides: dict[str, Value] = field(default_factory=dict)
    inbox: dict[str, Any] | None = None
    stages: dict[str, str] = field(default_factory=dict)
    experiment: str | None = None
    decisions: dict[str, dict[str, Any]] = field(default_factory=dict)
    approvals: dict[str, str] = field(default_factory=dict)

    def outcome(self) -> str:
        """Return the name of the final state: that of the decision that needs most attention."""
        found = {str(decision.get("decision", "unchanged")) for decision in self.decisions.values()}
        names = {PENDING: "AwaitingApproval", "promoted": "Promoted", "rejected": "Rejected"}
        return next((name for decision, name in names.items() if decision in found), "Unchanged")

    def message(self) -> str:
        """Return the result in one line."""
        parts = [] if self.inbox is None else [summary(self.inbox)]
        ran = [stage for stage, what in self.stages.items() if what != "unchanged"]
        parts.append(f"{len(ran)} of {len(self.stages)} stages had work")
        parts += [f"{task}: {decision.get('decision', 'no decision')}" for task, decision in self.decisions.items()]
        return "; ".join(parts)

    def report(self) -> str:
        """Return the result in Markdown."""
        lines = [f"# {self.outcome()}", "", self.message(), ""]
        if self.inbox is not None and outcome(self.inbox) != "NothingNew":
            lines += [f"**New data**: {summary(self.inbox)}.", ""]
        if self.overrides:
            changes = ", ".join(f"`{name}={value}`" for name, value in self.overrides.items())
            lines += [f"**Changed parameters**: {changes}.", ""]
        if self.experiment:
            lines += [f"**DVC experiment**: `{self.experiment}` (`clipbert experiments`, `dvc exp show`).", ""]
        for task, decision in self.decisions.items():
            lines += [f"## {task}: {decision.get('decision', 'no decision')}", "", str(decision.get("reason", "")), ""]
            keys = ("version", "champion", "against", "metric", "mean_score", "mean_difference", "low", "high")
            numbers = [(key, decision[key]) for key in keys if decision.get(key) is not None]
            if numbers:
                lines += ["| | |", "|---|---|", *(f"| {key} | {_short(value)} |" for key, value in numbers), ""]
            if task in self.approvals:
                lines += [self.approvals[task], ""]
        lines += ["## Stages", "", "| stage | outcome |", "|---|---|"]
        return "\n".join([*lines, *(f"| {stage} | {what} |" for stage, what in self.stages.items())]) + "\n"


@flow(name="clipbert-retrain")
def retrain(
    tasks: list[str] | None = None,
    overrides: dict[str, Value] | None = None,
    promote: bool = True,
    parallel: Annotated[int, Field(ge=1)] = 1,
    retries: Annotated[int, Field(ge=0, le=10)] = 1,
    retry_delay_s: Annotated[float, Field(ge=0)] = 10.0,
    time_limit_s: Annotated[float, Field(gt=0)] | None = None,
    root: str = ".",
) -> State:
    """Get new data, run the stages that have work, and promote, ask a person or reject by the promotion policy.

    Without new data, changed code or parameters nothing is trained. A run that was cancelled or killed is continued by
    the next one: merged data is committed, and training resumes from its checkpoint.

    Args:
        tasks: train and promote these tasks. Empty: tasks_run of params.yaml.
        overrides: changed parameters of this run by dotted name, such as {"train.lr": 0.001}. Paths and addresses
            outside the project are rejected.
        promote: decide about each new candidate. Otherwise it is only registered.
        parallel: number of stages that may run at the same time. Parallel trainings need one GPU each.
        retries: retries of a failed stage, and of commands that use the network.
        retry_delay_s: seconds before each retry of a stage.
        time_limit_s: seconds after which a running stage or command is stopped and fails. Empty: no limit.
        root: the project's folder. Another folder is rejected.
    """
    changes: dict[str, Value] = dict(overrides or {})
    try:
        project = project_folder(root)
        if tasks:
            changes["tasks_run"] = [check_task_name(task) for task in tasks]
    except ParameterError as error:
        return Failed(message=str(error))
    how = StageOptions(parallel, retries, retry_delay_s, time_limit_s)
    with flow_run_lock(project):
        if restore_params(project):
            get_run_logger().info("params.yaml was restored: the run that had changed it was killed")
        try:
            params = check_overrides(project, changes)
            done, failed = _retrain(project, params, changes, how)
        except (TaskFailedError, ParameterError, GraphError) as error:
            return Failed(message=str(error))
        if failed is None and promote:
            with Supervisor(project) as supervisor:
                for task in params.tasks_run:
                    if done.stages.get(f"register@{task}") == "unchanged" and _is_decided(project, task):
                        continue
                    done.decisions[task] = _decide(project, task, supervisor)
    for task, decision in done.decisions.items():
        if decision.get("decision") == PENDING:
            done.approvals[task] = _ask(task)
    create_markdown_artifact(key="clipbert-retrain", markdown=done.report(), description="What the retraining did")
    if failed is not None:
        return failed
    return Completed(name=done.outcome(), message=done.message(), data=done.decisions)


def _retrain(
    project: Path, params: Params, changes: dict[str, Value], how: StageOptions
) -> tuple[Retraining, State[Any] | None]:
    """Get the data, run the stages and save the experiment; return the failed state of the stages, if they failed."""
    done = Retraining(overrides=changes)
    with Supervisor(project) as supervisor:
        _pull(project, supervisor, how)
        if has_inbox(project, params.inbox):
            done.inbox = receive(project, params.inbox, supervisor, max(how.retries, 1), how.time_limit_s)
    name = f"retrain-{datetime.now(UTC):%Y%m%d-%H%M%S}-{flow_run.name or 'run'}"
    if changes:
        apply_overrides(project, changes)
    try:
        whole = read_graph(project)
        graph = select(whole, None)
        state, states = run_stages(project, whole, graph, how.with_variables({"DVC_EXP_NAME": name}))
        done.stages = {stage: _outcome(states.get(stage)) for stage in graph}
        if state.is_completed() and any(what != "unchanged" for what in done.stages.values()):
            with Supervisor(project) as supervisor:
                run_task("dvc exp save", ["dvc", "--wait-for-lock", "exp", "save", "-n", name], supervisor)
            done.experiment = name
    finally:
        restore_params(project)
    return done, None if state.is_completed() else state


def _pull(project: Path, supervisor: Supervisor, how: StageOptions) -> None:
    """Get the data that data.dvc names, where DVC has a remote; not before merged data is committed."""
    if not (project / "data.dvc").is_file() or has_uncommitted_batches(project):
        return
    if run_task("dvc remote list", ["dvc", "remote", "list"], supervisor, how.time_limit_s):
        run_task(
            "dvc pull",
            ["dvc", "--wait-for-lock", "pull", "data.dvc"],
            supervisor,
            how.time_limit_s,
            max(how.retries, 1),
        )


def _is_decided(project: Path, task: str) -> bool:
    """Return whether the last decision is about the registered version, so that it need not be repeated every night."""
    release, decision = (read_result(project / f"artifacts/{name}/{task}.json") for name in ("releases", "promotions"))
    return bool(release) and release.get("version") == decision.get("version")


def _decide(project: Path, task: str, supervisor: Supervisor) -> dict[str, Any]:
    """Run `clipbert promote TASK` as a task of the flow run; return the decision.

    Raises:
        TaskFailedError: it failed without a decision.
    """
    file = project / "artifacts/promotions" / f"{task}.json"
    before = read_result(file)
    try:
        run_task(f"promote {task}", ["clipbert", "promote", task], supervisor, tags={"gpu"})
    except TaskFailedError:
        if read_result(file) == before:
            raise
    after = read_result(file)
    return after if after != before else {}


def _ask(task: str) -> str:
    """Start the deployment with the approval form; return a line about it for the report."""
    by_hand = f"`clipbert promote {task} --approve`, or `--decline`"
    try:
        run: Any = run_deployment(PROMOTE, parameters={"task": task}, timeout=0, as_subflow=False)
    except (ObjectNotFound, ValueError):
        return f"A person has to approve it: {by_hand}."
    return f"A person has to approve it: the run {run.name} shows the form; in a terminal, {by_hand}."


def _outcome(state: State[Any] | None) -> str:
    if state is None:
        return "not run"
    return str(state.result().outcome) if state.is_completed() else "failed"


def _short(value: Any) -> Any:
    return f"{value:.4g}" if isinstance(value, float) else value


def main() -> int:
    """Run the flow with the parameters of the command line; return exit code 1 if it failed."""
    parser = argparse.ArgumentParser(prog="python -m flows.retrain", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("tasks", nargs="*", help="only these tasks; default: tasks_run of params.yaml")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change a parameter")
    parser.add_argument("--no-promote", action="store_true", help="only register the candidates")
    parser.add_argument("--time-limit", type=float, metavar="S", help="time limit of a stage in seconds (none)")
    options = parser.parse_args()
    install_redaction()
    changes: dict[str, Any] = {}
    for text in options.set:
        name, separator, value = text.partition("=")
        if not separator:
            parser.error(f"--set {text}: expected KEY=VALUE, such as train.lr=0.001")
        try:
            changes[name] = json.loads(value)
        except ValueError:
            changes[name] = value
    state = run_from_terminal(
        PROJECT,
        lambda: retrain(
            tasks=options.tasks or None,
            overrides=changes or None,
            promote=not options.no_promote,
            time_limit_s=options.time_limit,
            return_state=True,
        ),
    )
    if state is None:
        return 1
    print(state.message)
    return 0


if __name__ == "__main__":
    sys.exit(main())
