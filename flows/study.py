"""A study as a Prefect flow: `clipbert study` with its log, its table and its answer in the Prefect UI."""

import json
from pathlib import Path
from typing import Annotated, Any

from prefect import flow, get_run_logger
from prefect.artifacts import create_markdown_artifact, create_table_artifact
from prefect.client.schemas.objects import State
from prefect.states import Completed, Failed
from pydantic import Field

from clipbert.redact import redact
from flows.artifacts import artifact_key
from flows.parameters import ParameterError, project_folder
from flows.supervisor import Supervisor

DEFAULT_GRID = "recipes/study/sample.yaml"


@flow(name="clipbert-study")
def study(grid: str = DEFAULT_GRID, jobs: Annotated[int, Field(ge=1)] | None = None, root: str = ".") -> State:
    """Train the settings of a grid that are not finished, and publish the tables and the cheapest good setting.

    Args:
        grid: the grid file, below the project's folder.
        jobs: trainings at a time. Empty: one for each GPU, else one.
        root: the project's folder. Another folder is rejected.
    """
    try:
        project = project_folder(root)
        path = grid_file(project, grid)
    except ParameterError as error:
        return Failed(message=str(error))
    logger, output = get_run_logger(), []
    command = ["clipbert", "study", "--grid", str(path.relative_to(project))]
    with Supervisor(project, grace_s=45.0) as supervisor:
        process = supervisor.start([*command, *(["--jobs", str(jobs)] if jobs else [])])
        for line in map(redact, filter(None, process.lines())):
            logger.info(line)
            output.append(line)
        code = process.wait()
    if code != 0:
        return Failed(message="\n".join(output[-8:]) or f"clipbert study: exit code {code}")
    result = json.loads((project / "artifacts" / "study" / path.stem / "study.json").read_text(encoding="utf-8"))
    _publish(path.stem, result)
    return Completed(message=f"Cheapest within one standard error of the best: {result['choice']}")


def grid_file(project: Path, grid: str) -> Path:
    """Return the path of a grid file of the project.

    Raises:
        ParameterError: it is outside the project's folder or does not exist.
    """
    path = project if "\0" in grid else (project / grid).resolve()
    if not path.is_relative_to(project) or not path.is_file():
        raise ParameterError(
            f"grid: {grid!r} names no file below the project's folder. Expected one such as {DEFAULT_GRID}."
        )
    return path


def _publish(name: str, result: dict[str, Any]) -> None:
    key = artifact_key(name.lower())
    rows = [
        {
            "setting": one["name"],
            "mean": round(one["mean"]["value"], 2),
            "low": round(one["mean"]["low"], 2),
            "high": round(one["mean"]["high"], 2),
            "cost": one["cost"].get(result["cost"]),
            "pareto": one["pareto"],
        }
        for one in result["settings"]
    ]
    create_table_artifact(table=rows, key=f"clipbert-study-{key}", description=f"{result['metric']} on validation")
    findings = "\n".join(f"- **{axis['name']}**: {axis['finding']}" for axis in result["axes"])
    text = f"# Study {name}\n\nBest: {result['best']}\n\nCheapest within one standard error: {result['choice']}\n\n"
    create_markdown_artifact(key=f"clipbert-study-answer-{key}", markdown=text + findings)
