"""Evaluation of registered versions on today's test items as a Prefect flow: `clipbert backfill`."""

from pathlib import Path
from typing import Annotated

from prefect import flow
from prefect.artifacts import create_table_artifact
from prefect.client.schemas.objects import State
from prefect.states import Completed, Failed
from pydantic import Field

from flows.artifacts import artifact_key, read_results
from flows.inbox import TaskFailedError, run_task
from flows.parameters import ParameterError, check_task_name, project_folder
from flows.project_lock import flow_run_lock
from flows.supervisor import Supervisor


@flow(name="clipbert-backfill")
def backfill(
    task: str,
    versions: list[Annotated[int, Field(ge=1)]] | None = None,
    again: bool = False,
    time_limit_s: Annotated[float, Field(gt=0)] | None = None,
    root: str = ".",
) -> State:
    """Evaluate registered versions on today's test items, so that their metrics can be compared.

    Args:
        task: a task, such as retrieval.
        versions: numbers of versions. Empty: all.
        again: evaluate also versions that were evaluated on the same data.
        time_limit_s: seconds after which the evaluation is stopped and fails; the next run continues it. Empty: no
            limit.
        root: the project's folder. Another folder is rejected.
    """
    try:
        project, task = project_folder(root), check_task_name(task)
    except ParameterError as error:
        return Failed(message=str(error))
    command = ["clipbert", "backfill", task, *map(str, versions or []), *(["--again"] if again else [])]
    with flow_run_lock(project), Supervisor(project) as supervisor:
        try:
            run_task(f"backfill {task}", command, supervisor, time_limit_s, tags={"gpu"})
        except TaskFailedError as error:
            return Failed(message=str(error))
    rows = table(project, task)
    create_table_artifact(table=rows, key=f"clipbert-backfill-{artifact_key(task)}", description="On today's test set")
    return Completed(message=f"{len(rows)} versions", data=rows)


def table(project: Path, task: str) -> list[dict[str, object]]:
    """Return a row for each evaluated version, the newest first: version, metrics, and why it has none."""
    found = read_results(project / "artifacts/backfill" / task).values()
    rows: list[dict[str, object]] = []
    for one in sorted(found, key=lambda one: int(one["version"]), reverse=True):
        problem = {"problem": one["problem"]} if one["problem"] else {}
        rows.append({"version": one["version"], "data": one["data"][:12], **one["metrics"], **problem})
    return rows
