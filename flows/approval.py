"""The approval form of a promotion: candidate and champion side by side, and the answer of a person."""

import re
from pathlib import Path
from typing import Annotated, Any, Literal
from uuid import UUID

from prefect.client.orchestration import get_client
from prefect.exceptions import FlowPauseTimeout
from prefect.flow_runs import pause_flow_run
from prefect.input import RunInput
from prefect.runtime import flow_run
from prefect.states import Running
from pydantic import Field

from clipbert.redact import redact
from flows.artifacts import mlflow_server, read_result
from flows.supervisor import Supervisor

COMPARISON = re.compile(r"^MLflow: run (?P<run>[0-9a-f]{32}) of \S+, experiment (?P<experiment>\d+)$")
MARKS = {"passed": "✓ passed", "failed": "✗ failed", "skipped": "not applicable"}
# A command line cannot carry NUL, and the history shows one line per answer.
Line = Annotated[str, Field(pattern=r"^[^\x00-\x1f\x7f]*$")]


class Approval(RunInput):
    """Answer of the person who resumes the run."""

    decision: Literal["approve", "decline"] = Field(title="Decision")
    name: Line = Field(title="Your name", min_length=1, max_length=200, description="Recorded with the decision.")
    note: Line = Field("", title="Note", max_length=1500, description="Why; recorded in the history.")


def ask_person(decision: dict[str, Any], request: str, timeout_s: int) -> Approval | None:
    """Pause the flow run until a person answers the form; None if nobody did in time.

    Args:
        decision: the pending decision.
        request: what the form shows, in Markdown.
        timeout_s: seconds to wait.
    """
    form = Approval.with_initial_data(description=request)
    # A key of its own for each decision: a run that asks twice must not take the first answer for the second.
    key = f"approval-{decision['id'][:12]}"
    try:
        return pause_flow_run(wait_for_input=form, timeout=timeout_s, poll_interval=2, key=key)
    except FlowPauseTimeout:
        # The server fails a run whose pause has expired, which may be first; only a forced state replaces a final one.
        with get_client(sync_client=True) as client:
            client.set_flow_run_state(UUID(flow_run.id), Running(), force=True)
        return None


def approval_request(project: Path, task: str, decision: dict[str, Any]) -> str:
    """Return what the person reads before the answer, in Markdown: metrics, differences, checks, links."""
    name, verdict = decision["name"], decision["verdict"]
    champion = verdict["champion"]
    against = f"version {champion['version']}, the champion" if champion else "no champion yet"
    lines = [
        f"# Promote {name} version {decision['version']}?",
        f"It passed the gate against {against}: {_cell(_finding(decision['reason']))}.",
        "## Metrics",
        metrics_table(decision),
        "## Look at the answers",
        *_links(project, task, decision),
        "## Checks of the gate",
        checks_table(verdict),
    ]
    return "\n\n".join(lines)


def metrics_table(decision: dict[str, Any]) -> str:
    """Return the headline metrics of candidate and champion as a Markdown table."""
    verdict = decision["verdict"]
    champion = verdict["champion"]
    # Few and short columns: the form of Prefect's UI is 430 pixels wide.
    titles = ["metric", f"version {decision['version']}"]
    if champion:
        titles += [f"version {champion['version']}", f"difference ({verdict['confidence']} interval)"]
    rows = []
    for row in verdict["headlines"]:
        interval = f" ({row['interval']})" if row["interval"] else ""
        values = [row["name"], row["candidate"], row["champion"], f"{row['difference']}{interval}"]
        rows.append(values[: len(titles)])
    return _table(titles, rows)


def checks_table(verdict: dict[str, Any]) -> str:
    """Return the checks of a verdict as a Markdown table, those that do not apply last."""
    order = ["failed", "passed", "skipped"]
    checks = sorted(verdict["checks"], key=lambda check: order.index(check["outcome"]))
    rows = [[MARKS[check["outcome"]], check["title"], check["found"], check["required"]] for check in checks]
    return _table(["", "check", "found", "required"], rows)


def _links(project: Path, task: str, decision: dict[str, Any]) -> list[str]:
    verdict = decision["verdict"]
    candidate, champion = verdict["candidate"], verdict["champion"]
    server = mlflow_server(read_result(project / f"artifacts/runs/{task}.json").get("tracking_uri", ""))
    run = f"{server}/#/experiments/{candidate['experiment_id']}/runs/{candidate['run_id']}/artifacts"
    found = [
        f"- [Report of version {decision['version']}, with frames]({run}/evaluation/{task}.html)",
        f"- [Verdict with every number]({run}/promotion/version-{decision['version']}.html)",
        f"- [{decision['name']} in the registry]({server}/#/models/{decision['name']})",
    ]
    if champion:
        models = [f"models:/{decision['name']}/{one['version']}" for one in (champion, candidate)]
        page, problem = _comparison(project, task, models, server)
        words = f"[Items won and lost, with frames]({page})" if page else f"No comparison page: {_cell(problem)}"
        found.insert(0, f"- {words}")
    return ["\n".join(found)]


def _comparison(project: Path, task: str, models: list[str], server: str) -> tuple[str, str]:
    """Log the comparison of two models to MLflow; return the address of its page, or why there is none."""
    output: list[str] = []
    compare = ["clipbert", "compare", *models, "--task", task, "--mlflow"]
    # New test items: the champion's registered predictions are of the old ones.
    evaluate = ["clipbert", "backfill", task, models[0].rpartition("/")[2]]
    with Supervisor(project) as supervisor:
        for command in (compare, evaluate, compare):
            process = supervisor.start(command)
            output = [redact(line) for line in process.lines() if line]
            code = process.wait()
            if command is compare and code == 0:
                break
    match = next(filter(None, map(COMPARISON.match, reversed(output))), None)
    if code == 0 and match:
        return f"{server}/#/experiments/{match['experiment']}/runs/{match['run']}/artifacts/comparison.html", ""
    return "", " ".join(output[-3:])


def _finding(reason: str) -> str:
    return reason.partition("; it waits")[0]


def _table(titles: list[str], rows: list[list[str]]) -> str:
    lines = [titles, ["---"] * len(titles), *([_cell(value) or " " for value in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(value: str) -> str:
    """Return a text that is neither a column nor markup of Markdown."""
    return re.sub(r"([\\|<>\[\]`*_])", r"\\\1", str(value))
