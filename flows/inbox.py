"""Arrival of data as a Prefect flow: `clipbert inbox`, then `dvc add`, a git commit and `dvc push`.

`python -m flows.inbox`, or the deployment `inbox` in prefect.yaml.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

from prefect import flow, get_run_logger, task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.states import Completed, Failed
from prefect.tasks import exponential_backoff
from pydantic import Field

from clipbert.config.data import InboxParams
from clipbert.config.load import load_params
from clipbert.errors import ClipBertError
from clipbert.redact import install_redaction
from flows import PROJECT
from flows.artifacts import read_result
from flows.data_commit import DataCommit, DataCommitError, check_committed, commit_data, has_uncommitted_batches
from flows.parameters import ParameterError, project_folder
from flows.pipeline import is_retryable
from flows.project_lock import flow_run_lock
from flows.stage import StageError, run_command
from flows.supervisor import Supervisor
from flows.temporary_server import run_from_terminal

RESULT = Path("artifacts", "inbox", "result.json")
BACKOFF_S = 10
SHOWN = 50


@task(cache_policy=NO_CACHE, persist_result=False, retry_condition_fn=is_retryable)
def command_task(
    name: str, command: Sequence[str], supervisor: Supervisor, time_limit_s: float | None, network: bool = False
) -> State:
    """Run a command of the project; its output is the log of the task.

    Args:
        network: retry whatever failed: the network may be back.
    """
    retryable: Callable[[int], bool] = (lambda code: True) if network else (lambda code: code != 2)
    try:
        lines = run_command(name, command, supervisor, get_run_logger().info, time_limit_s, retryable)
    except StageError as error:
        return Failed(message=str(error), data=error)
    return Completed(message=lines[-1] if lines else None, data=lines)


class TaskFailedError(Exception):
    """A command or the commit failed; the message is that of its task."""


def run_task(
    name: str,
    command: Sequence[str],
    supervisor: Supervisor,
    time_limit_s: float | None = None,
    retries: int = 0,
    tags: set[str] | None = None,
) -> list[str]:
    """Run a command as a task of the current flow run and return its lines of output.

    Args:
        retries: attempts after the first one, 10, 20, 40, ... seconds later; for commands that use the network.
        tags: of the task; by default `data`. A concurrency limit on the tag `gpu` sets the number of GPU slots.

    Raises:
        TaskFailedError: the command failed.
    """
    ready = command_task.with_options(
        name=name,
        task_run_name=name,
        tags=tags or {"data"},
        retries=retries,
        retry_delay_seconds=exponential_backoff(BACKOFF_S),
    )
    state: State[Any] = ready(name, command, supervisor, time_limit_s, retries > 0, return_state=True)
    if not state.is_completed():
        raise TaskFailedError(state.message or f"{name}: {state.name}")
    lines: list[str] = state.result()
    return lines


@task(name="git commit", task_run_name="git commit", tags={"data"}, cache_policy=NO_CACHE, persist_result=False)
def commit_task(project: Path, branch: str | None, supervisor: Supervisor, time_limit_s: float | None) -> State:
    """Commit data.dvc after `dvc add data`."""
    logger = get_run_logger()

    def run(name: str, command: list[str]) -> list[str]:
        return run_command(name, command, supervisor, logger.info, time_limit_s)

    try:
        made = commit_data(project, branch, run)
    except (DataCommitError, StageError) as error:
        return Failed(message=str(error))
    logger.info("%s\n%s", made.commit or f"{made.branch} has this data already", made.message)
    return Completed(name="Completed" if made.commit else "Unchanged", data=made)


def receive(
    project: Path, params: InboxParams, supervisor: Supervisor, retries: int, time_limit_s: float | None
) -> dict[str, Any]:
    """Merge the inbox into data/ and commit it, as tasks of the current flow run, which holds the project's lock.

    Returns:
        The content of artifacts/inbox/result.json, with `commit` and `branch`.

    Raises:
        TaskFailedError: a command failed; the next call finishes what was begun.
    """
    logger = get_run_logger()

    def run(name: str, command: list[str]) -> list[str]:
        return run_command(name, command, supervisor, logger.debug, time_limit_s)

    try:
        check_committed(project, params.branch, run)
    except (DataCommitError, StageError) as error:
        raise TaskFailedError(str(error)) from error
    remote = "://" in params.source
    run_task("clipbert inbox", ["clipbert", "inbox"], supervisor, time_limit_s, retries if remote else 0)
    result = read_result(project / RESULT) | {"commit": None, "branch": None}
    if has_uncommitted_batches(project):
        state: State[Any] = commit_task(project, params.branch, supervisor, time_limit_s, return_state=True)
        if not state.is_completed():
            raise TaskFailedError(state.message or "git commit failed")
        made: DataCommit = state.result()
        result |= {"commit": made.commit, "branch": made.branch}
    if params.push:
        run_task("dvc push", ["dvc", "--wait-for-lock", "push", "data.dvc"], supervisor, time_limit_s, retries)
    create_markdown_artifact(key="clipbert-inbox", markdown=report(result), description="What arrived")
    return result


@flow(name="clipbert-inbox")
def inbox(
    retries: Annotated[int, Field(ge=0, le=10)] = 3,
    time_limit_s: Annotated[float, Field(gt=0)] | None = None,
    root: str = ".",
) -> State:
    """Merge what is good in the inbox into data/, set the rest aside with reasons, and commit the new data.

    The section `inbox` of params.yaml says where the inbox is, and to which branch the commit goes.

    Args:
        retries: retries of commands that use the network, after 10, 20, 40, ... seconds.
        time_limit_s: seconds after which a command is stopped and fails. Empty: no limit.
        root: the project's folder. Another folder is rejected.
    """
    try:
        project = project_folder(root)
        params = load_params(project / "params.yaml").inbox
    except (ParameterError, ClipBertError) as error:
        return Failed(message=str(error))
    if not has_inbox(project, params):
        return Completed(name="NoInbox", message=f"The folder {params.source} does not exist. Create it for new data.")
    with flow_run_lock(project), Supervisor(project) as supervisor:
        try:
            result = receive(project, params, supervisor, retries, time_limit_s)
        except TaskFailedError as error:
            return Failed(message=str(error))
    return Completed(name=outcome(result), message=summary(result), data=result)


def has_inbox(project: Path, params: InboxParams) -> bool:
    """Return whether there is an inbox; a project with the default name and no such folder does not use one."""
    is_default = params.source == InboxParams().source
    return not is_default or (project / params.source).is_dir() or has_uncommitted_batches(project)


def outcome(result: dict[str, Any]) -> str:
    """Return the name of the final state: Merged, PartlyRefused, Refused or NothingNew."""
    merged = bool(result["media"] or result["texts"] or result["commit"])
    if result["refused"]:
        return "PartlyRefused" if merged else "Refused"
    return "Merged" if merged else "NothingNew"


def summary(result: dict[str, Any]) -> str:
    """Return the result in one line."""
    texts = sum(result["texts"].values())
    parts = [f"{result['media']} media and {texts} texts merged"]
    if result["refused"]:
        parts.append(f"{len(result['refused'])} files and rows refused ({result['refused_folder']})")
    if result["waiting"]:
        parts.append(f"{len(result['waiting'])} files wait")
    if result["commit"]:
        parts.append(f"commit {result['commit'][:10]} on {result['branch']}")
    return ", ".join(parts)


def report(result: dict[str, Any]) -> str:
    """Return the result in Markdown, with a table of what was refused and why."""
    lines = [f"# {summary(result)}", ""]
    for title, values in (("Texts", result["texts"]), ("New media by split", result["splits"])):
        if values:
            lines += [f"{title}: " + ", ".join(f"{count} {name}" for name, count in values.items()), ""]
    if result["refused"]:
        lines += ["## Refused", "", "| file | line | reason | what to do |", "|---|---|---|---|"]
        for one in result["refused"][:SHOWN]:
            cells = (one["file"], one["line"] or "", f"{one['code']}: {one['reason']}", one["remedy"])
            lines.append("| " + " | ".join(_cell(cell) for cell in cells) + " |")
        lines += [f"| and {len(result['refused']) - SHOWN} more | | | |"] if len(result["refused"]) > SHOWN else []
        lines.append("")
    for title, files in (("Left in the inbox", result["waiting"]), ("Not read", result["ignored"])):
        if files:
            lines += [f"## {title}", "", "| file | reason |", "|---|---|"]
            lines += [f"| {_cell(name)} | {_cell(reason)} |" for name, reason in list(files.items())[:SHOWN]]
            lines.append("")
    lines += [f"- {warning}" for warning in result["warnings"]]
    return "\n".join(lines)


def _cell(value: Any) -> str:
    """Return a value for a Markdown table, in which it means nothing but itself."""
    text = " ".join(str(value).split())
    for char in "\\`|*_[]<>":
        text = text.replace(char, f"\\{char}" if char != "<" else "&lt;")
    return text


def main() -> int:
    """Run the flow with the parameters of the command line; return exit code 1 if it failed."""
    parser = argparse.ArgumentParser(prog="python -m flows.inbox", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--retries", type=int, default=3, help="retries of commands that use the network (3)")
    parser.add_argument("--time-limit", type=float, metavar="S", help="time limit of a command in seconds (none)")
    options = parser.parse_args()
    install_redaction()
    if options.retries < 0 or (options.time_limit or 1) <= 0:
        parser.error("expected --retries >= 0 and --time-limit > 0")
    state = run_from_terminal(
        PROJECT, lambda: inbox(retries=options.retries, time_limit_s=options.time_limit, return_state=True)
    )
    if state is None:
        return 1
    print(state.message)
    return 0


if __name__ == "__main__":
    sys.exit(main())
