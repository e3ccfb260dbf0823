"""Promotion and rollback as Prefect flows: `clipbert promote`, with an optional approval, and `clipbert rollback`."""

from pathlib import Path
from typing import Annotated, Any

from prefect import flow, get_run_logger
from prefect.artifacts import create_markdown_artifact
from prefect.client.schemas.objects import State
from prefect.states import Completed, Failed
from pydantic import Field

from clipbert.redact import redact
from flows.approval import approval_request, ask_person, checks_table, metrics_table
from flows.artifacts import artifact_key, read_result
from flows.parameters import ParameterError, check_task_name, project_folder
from flows.supervisor import Supervisor

DAY_S = 24 * 3600


@flow(name="clipbert-promote")
def promote(
    task: str,
    approve: bool = False,
    approval_timeout_s: Annotated[int, Field(ge=1)] = DAY_S,
    root: str = ".",
) -> State:
    """Make a task's candidate its champion if it passes the policy in mlflow/promotion.yaml.

    Args:
        task: a task, such as retrieval.
        approve: ask a person even if the policy does not. The run pauses with a form only if the candidate passes the
            gate; a candidate that fails it, or is the champion already, needs no answer.
        approval_timeout_s: seconds to wait for the answer. If there is none, nothing changes.
        root: the project's folder. Another folder is rejected.
    """
    try:
        project, task = project_folder(root), check_task_name(task)
    except ParameterError as error:
        return Failed(message=str(error))
    return promote_candidate(project, task, approve, approval_timeout_s)


def promote_candidate(project: Path, task: str, ask: bool = False, timeout_s: int = DAY_S) -> State:
    """Promote the candidate of a task by the policy, within a flow run; return the decision as a state.

    The state's name is Promoted, Rejected, Unchanged, Declined, or Expired if a person was asked and nobody answered.

    Args:
        project: the project's folder.
        ask: ask a person even if the policy does not.
        timeout_s: seconds to wait for a person's answer.
    """
    logger = get_run_logger()
    state, decision = _run(project, "promote", task, *(["--ask"] if ask else []))
    if decision.get("decision") != "pending":
        return state
    request = approval_request(project, task, decision)
    create_markdown_artifact(key=f"clipbert-candidate-{artifact_key(task)}", markdown=request)
    answer = ask_person(decision, request, timeout_s)
    if answer is None:
        return Completed(name="Expired", message=_expired(decision, timeout_s))
    logger.info("%s by %s. %s", "Approved" if answer.decision == "approve" else "Declined", answer.name, answer.note)
    # One word each: a value that starts with a hyphen must not become an option. No shell reads them.
    words = [f"--{answer.decision}", f"--by={answer.name}", f"--note={answer.note}", f"--pending={decision['id']}"]
    return _run(project, "promote", task, *words)[0]


@flow(name="clipbert-rollback")
def rollback(task: str, root: str = ".") -> State:
    """Make a task's previous champion its champion again.

    Args:
        task: a task, such as retrieval.
        root: the project's folder. Another folder is rejected.
    """
    try:
        return _run(project_folder(root), "rollback", check_task_name(task))[0]
    except ParameterError as error:
        return Failed(message=str(error))


def _run(project: Path, verb: str, task: str, *options: str) -> tuple[State, dict[str, Any]]:
    """Run `clipbert VERB TASK`; return the outcome as a state, and the decision, empty if none was made.

    The decision is published as an artifact, unless a person has to make it.
    """
    file = project / "artifacts/promotions" / f"{task}.json"
    before = read_result(file)
    logger = get_run_logger()
    output = []
    with Supervisor(project) as supervisor:
        process = supervisor.start(["clipbert", verb, task, *options])
        for line in map(redact, filter(None, process.lines())):
            logger.info(line)
            output.append(line)
        code = process.wait()
    after = read_result(file)
    decision = after if after != before else {}
    if decision.get("decision") != "pending":
        report = _report(verb, task, decision, output)
        create_markdown_artifact(key=f"clipbert-decision-{artifact_key(task)}", markdown=report)
    if decision:
        return Completed(name=_title(decision), message=decision["reason"]), decision
    if code != 0:
        return Failed(message="\n".join(output) or f"clipbert {verb} {task}: exit code {code}"), {}
    return Completed(name="Unchanged", message="\n".join(output)), {}


def _expired(decision: dict[str, Any], timeout_s: int) -> str:
    champion = decision["champion"]
    state = "there is still no champion" if champion is None else f"version {champion} is still the champion"
    return (
        f"Nobody answered within {timeout_s / 3600:.3g} hours: nothing was changed, {state}. Version "
        f"{decision['version']} still waits: run this deployment again, or `clipbert promote {decision['task']} "
        "--approve`."
    )


def _title(decision: dict[str, Any]) -> str:
    return str(decision["decision"]).replace("_", " ").capitalize()


def _report(verb: str, task: str, decision: dict[str, Any], output: list[str]) -> str:
    """Return the decision with its verdict in Markdown, or the command's output if it made no decision."""
    title = f"{task}: {_title(decision)}" if decision else f"{task}: {verb} changed nothing"
    reason = decision.get("reason") or "\n".join(output)
    parts = [f"# {title}", reason]
    if decision.get("verdict"):
        parts += ["## Metrics", metrics_table(decision), "## Checks", checks_table(decision["verdict"])]
    left_out = ("task", "reason", "verdict")
    facts = {key: value for key, value in decision.items() if key not in left_out and value is not None}
    return "\n\n".join([*parts, _table(facts)])


def _table(values: dict[str, Any]) -> str:
    if not values:
        return ""
    shown = {name: f"{value:.4g}" if isinstance(value, float) else value for name, value in values.items()}
    return "\n".join(["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in shown.items())])
