"""Promotion and rollback as Prefect flows: `clipbert promote`, with an optional approval, and `clipbert rollback`."""

from pathlib import Path
from typing import Any

from prefect import flow, get_run_logger
from prefect.artifacts import create_markdown_artifact
from prefect.client.schemas.objects import State
from prefect.flow_runs import pause_flow_run
from prefect.input import RunInput
from prefect.states import Completed, Failed

from clipbert.redact import redact
from flows.artifacts import artifact_key, read_result
from flows.parameters import ParameterError, check_task_name, project_folder
from flows.supervisor import Supervisor


class Approval(RunInput):
    """Decision of the person who resumes the run."""

    approved: bool
    note: str = ""


@flow(name="clipbert-promote")
def promote(task: str, approve: bool = False, approval_timeout_s: int = 24 * 3600, root: str = ".") -> State:
    """Make a task's candidate its champion if it is better than the champion on the same test items.

    Args:
        task: a task, such as retrieval.
        approve: pause until a person has read the candidate's metrics and approved or declined the promotion. The gate
            still compares the models after an approval.
        approval_timeout_s: seconds to wait for the approval before the run fails.
        root: the project's folder. Another folder is rejected.
    """
    try:
        project, task = project_folder(root), check_task_name(task)
    except ParameterError as error:
        return Failed(message=str(error))
    if approve:
        request = _approval_request(project, task)
        create_markdown_artifact(key=f"clipbert-candidate-{artifact_key(task)}", markdown=request)
        approval = Approval.with_initial_data(description=request, approved=False)
        answer = pause_flow_run(wait_for_input=approval, timeout=approval_timeout_s, poll_interval=2, key="approval")
        get_run_logger().info("%s %s", "Approved." if answer.approved else "Declined.", answer.note)
        if not answer.approved:
            return Completed(name="Declined", message=answer.note or "Nothing was changed")
    return _decide(project, "promote", task)


@flow(name="clipbert-rollback")
def rollback(task: str, root: str = ".") -> State:
    """Make a task's previous champion its champion again.

    Args:
        task: a task, such as retrieval.
        root: the project's folder. Another folder is rejected.
    """
    try:
        return _decide(project_folder(root), "rollback", check_task_name(task))
    except ParameterError as error:
        return Failed(message=str(error))


def _decide(project: Path, verb: str, task: str) -> State:
    """Run `clipbert VERB TASK`; return its decision as a state and publish it as an artifact."""
    file = project / "artifacts/promotions" / f"{task}.json"
    before = read_result(file)
    logger = get_run_logger()
    output = []
    with Supervisor(project) as supervisor:
        process = supervisor.start(["clipbert", verb, task])
        for line in map(redact, filter(None, process.lines())):
            logger.info(line)
            output.append(line)
        code = process.wait()
    after = read_result(file)
    decision = after if after != before else {}
    report = _report(verb, task, decision, output)
    create_markdown_artifact(key=f"clipbert-decision-{artifact_key(task)}", markdown=report)
    if decision:
        return Completed(name=_title(decision), message=decision["reason"])
    if code != 0:
        return Failed(message="\n".join(output) or f"clipbert {verb} {task}: exit code {code}")
    return Completed(name="Unchanged", message="\n".join(output))


def _title(decision: dict[str, Any]) -> str:
    return str(decision["decision"]).replace("_", " ").capitalize()


def _report(verb: str, task: str, decision: dict[str, Any], output: list[str]) -> str:
    """Return the decision and its numbers in Markdown, or the command's output if it made no decision."""
    title = f"{task}: {_title(decision)}" if decision else f"{task}: {verb} changed nothing"
    reason = decision.get("reason") or "\n".join(output)
    numbers = {key: value for key, value in decision.items() if key not in ("task", "reason") and value is not None}
    return f"# {title}\n\n{reason}\n\n{_table(numbers)}"


def _approval_request(project: Path, task: str) -> str:
    """Return the text that the person reads before the decision, in Markdown."""
    release, metrics = (read_result(project / f"artifacts/{folder}/{task}.json") for folder in ("releases", "metrics"))
    name = f"{release['name']} version {release['version']}" if release else f"the candidate of {task}"
    return f"# Promote {name}?\n\nIts metrics on the test split:\n\n{_table(metrics)}"


def _table(values: dict[str, Any]) -> str:
    if not values:
        return ""
    shown = {name: f"{value:.4g}" if isinstance(value, float) else value for name, value in values.items()}
    return "\n".join(["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in shown.items())])
