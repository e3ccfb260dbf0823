"""Batch prediction as a Prefect flow: `clipbert predict` with its log and its summary in the Prefect UI."""

from pathlib import Path

from prefect import flow, get_run_logger
from prefect.client.schemas.objects import State
from prefect.states import Completed, Failed

from clipbert.redact import redact
from flows.parameters import ParameterError, check_task_name, project_folder
from flows.supervisor import Supervisor

OUTPUTS = "artifacts/tables"  # below the project's folder: the flow writes nowhere else


@flow(name="clipbert-predict")
def predict(
    table: str = "data/questions.csv",
    output: str = "answers.csv",
    task: str = "open_qa",
    media: str = "data",
    root: str = ".",
) -> State:
    """Predict each row of a table with the task's champion, or else its last trained model.

    Args:
        table: a .csv, .tsv, .jsonl or .parquet file below the project's folder.
        output: the name of the table to write into artifacts/tables.
        task: the task.
        media: the folder of the table's relative paths, below the project's folder.
        root: the project's folder. Another folder is rejected.
    """
    try:
        project = project_folder(root)
        source = _inside(project, "table", table, is_file=True)
        folder = _inside(project, "media", media, is_file=False)
        written = _output(project, output)
        check_task_name(task)
    except ParameterError as error:
        return Failed(message=str(error))
    logger, lines = get_run_logger(), []
    command = ["clipbert", "predict", "--task", task, "--input", str(source.relative_to(project))]
    command += ["--output", str(written.relative_to(project)), "--media", str(folder.relative_to(project))]
    with Supervisor(project, grace_s=30.0) as supervisor:
        process = supervisor.start(command)
        for line in map(redact, filter(None, process.lines())):
            logger.info(line)
            lines.append(line)
        code = process.wait()
    if code != 0:
        return Failed(message="\n".join(lines[-8:]) or f"clipbert predict: exit code {code}")
    prefix = f"{OUTPUTS}/{output}: "
    return Completed(message=next((line for line in lines if line.startswith(prefix)), lines[-1]))


def _inside(project: Path, name: str, given: str, is_file: bool) -> Path:
    """Return the path of a file or folder of the project.

    Raises:
        ParameterError: it is outside the project's folder or does not exist.
    """
    path = project if "\0" in given else (project / given).resolve()
    if not path.is_relative_to(project) or not (path.is_file() if is_file else path.is_dir()):
        what = "file" if is_file else "folder"
        raise ParameterError(f"{name}: {given!r} names no {what} below the project's folder.")
    return path


def _output(project: Path, name: str) -> Path:
    """Return where a table of a name is written.

    Raises:
        ParameterError: it is not the name of a table alone.
    """
    if not name or "\0" in name or name != Path(name).name or name.startswith((".", "-")):
        raise ParameterError(f"output: {name!r} is not a file name. Expected one such as answers.csv.")
    return project / OUTPUTS / name
