"""The command `predict`: a table of videos and texts to a table of answers."""

from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer

from clipbert.cli.model_choice import choose_model
from clipbert.cli.options import complete_task, project
from clipbert.cli.use import PANEL, Model
from clipbert.config.tasks import check_task, task_names
from clipbert.console import console

predicting = typer.Typer(rich_markup_mode="markdown")


@predicting.command(
    epilog="Example: `clipbert predict --task open_qa --input questions.csv --output answers.csv`",
    rich_help_panel=PANEL,
)
def predict(
    task: Annotated[
        str,
        typer.Option(metavar="TASK", help=f"One of: {', '.join(task_names())}.", autocompletion=complete_task),
    ],
    source: Annotated[
        Path,
        typer.Option(
            "--input",
            metavar="FILE",
            help="A .csv, .tsv, .jsonl or .parquet table with a column video and, by task, question, options or text.",
        ),
    ],
    output: Annotated[Path, typer.Option("--output", metavar="FILE", help="The table to write, of the same kinds.")],
    model: Model = None,
    media: Annotated[
        Path | None, typer.Option(metavar="DIR", help="The folder of relative paths. Default: the table's.")
    ] = None,
    executor: Annotated[str, typer.Option(metavar="ADDRESS", help="local, or a cluster: dask://HOST:PORT.")] = "local",
) -> None:
    """Predict each row of a table; continues a run that was stopped.

    A row whose video or text cannot be used gets its error in the column `error`.
    """
    check_task(task)
    with ExitStack() as scratch:
        chosen = choose_model(project(), model, (task,), scratch)
        from clipbert.prediction.run import predict_table

        summary = predict_table(chosen.folder, task, source, output, media, executor)
    console.print(f"{output}: {summary.rows} rows, {summary.failed} with an error")
    for line in summary.errors:
        console.print(f"  {line}")
    if summary.failed > len(summary.errors):
        console.print(f"  and {summary.failed - len(summary.errors)} more, in the column error")
    console.print(f"model: {chosen.name}")
