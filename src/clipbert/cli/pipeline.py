"""Commands of the pipeline's stages: from sample data to a registered model."""

import sys
from typing import Annotated

import typer

from clipbert import stages
from clipbert.cli.options import DEFAULT, ParamsFile, Set, TaskName, project
from clipbert.config.load import load_params
from clipbert.config.tasks import check_task
from clipbert.exit_status import exit_code_written, started_by_torchrun

pipeline = typer.Typer(rich_markup_mode="markdown")
PANEL = "Pipeline"


@pipeline.command("sample-data", epilog="Example: `clipbert sample-data --seed 0`", rich_help_panel=PANEL)
def sample_data(
    seed: Annotated[int, typer.Option(min=0, help="Seed of the videos and texts; equal seeds give equal bytes.")] = 0,
    questions: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KIND", help="Ask every open question of this kind, such as direction, and no others. Repeatable."
        ),
    ] = None,
    train: Annotated[int, typer.Option(min=1, help="Number of training videos; pictures in proportion.")] = 1100,
    val: Annotated[int, typer.Option(min=1, help="Number of validation videos.")] = 100,
    test: Annotated[int, typer.Option(min=1, help="Number of test videos.")] = 160,
) -> None:
    """Create a sample data set of moving shapes in data/."""
    stages.sample_data(project(), seed, questions or (), (train, val, test))


@pipeline.command(epilog="Example: `clipbert ingest --set ingest.timeout_s=60`", rich_help_panel=PANEL)
def ingest(params: ParamsFile = DEFAULT, overrides: Set = None) -> None:
    """Probe every file in data/ and write the manifest; unreadable files are quarantined."""
    stages.ingest(project(), load_params(params, overrides))


@pipeline.command(epilog="Example: `clipbert validate`", rich_help_panel=PANEL)
def validate(params: ParamsFile = DEFAULT, overrides: Set = None) -> None:
    """Check the manifest with Great Expectations; fails if a required check fails, and writes a report."""
    stages.validate(project(), load_params(params, overrides))


@pipeline.command(epilog="Example: `clipbert inbox --set inbox.stable_s=0`", rich_help_panel=PANEL)
def inbox(
    params: ParamsFile = DEFAULT,
    overrides: Set = None,
    recheck: Annotated[
        bool, typer.Option("--recheck", help="Look again at files of an address that were merged or refused before.")
    ] = False,
) -> None:
    """Check new media and rows in the inbox, merge the good ones into data/, and set the others aside with reasons.

    A killed pass is finished by the next one.
    """
    stages.inbox(project(), load_params(params, overrides), recheck)


@pipeline.command(epilog="Example: `clipbert frames --set frames.fps=1`", rich_help_panel=PANEL)
def frames(
    params: ParamsFile = DEFAULT,
    overrides: Set = None,
    repair: Annotated[
        bool, typer.Option("--repair", help="Check every byte of the cache, and retry quarantined files.")
    ] = False,
) -> None:
    """Decode each video once into the frame cache; unchanged videos are kept."""
    stages.frames(project(), load_params(params, overrides), repair)


@pipeline.command(epilog="Example: `clipbert train retrieval --set train.lr=0.0005`", rich_help_panel=PANEL)
def train(task: TaskName, params: ParamsFile = DEFAULT, overrides: Set = None) -> None:
    """Train a task; resumes from the last checkpoint.

    With `train.processes` above 1, the command starts that many processes, as torchrun does. SIGTERM and Ctrl-C save a
    checkpoint and exit with codes 143 and 130.
    """
    if exit_code_written():
        raise typer.Exit
    loaded, name = load_params(params, overrides), check_task(task)
    if loaded.train.processes > 1 and not started_by_torchrun():
        from clipbert.distributed.launch import launch

        raise typer.Exit(launch(loaded.train.processes, loaded.train.max_restarts, sys.argv[1:]))
    stages.train(project(), name, loaded)


@pipeline.command(epilog="Example: `clipbert evaluate retrieval --set evaluate.clips=8`", rich_help_panel=PANEL)
def evaluate(task: TaskName, params: ParamsFile = DEFAULT, overrides: Set = None) -> None:
    """Evaluate a trained model on the test split, compared with chance and blank frames; writes a report.

    With `evaluate.processes` above 1, the command starts that many processes for retrieval. A killed retrieval
    evaluation continues with the scores that it has.
    """
    if exit_code_written():
        raise typer.Exit
    loaded, name = load_params(params, overrides), check_task(task)
    if loaded.evaluate.processes > 1 and not started_by_torchrun() and stages.shares_videos(name):
        from clipbert.distributed.launch import launch

        raise typer.Exit(launch(loaded.evaluate.processes, loaded.train.max_restarts, sys.argv[1:]))
    stages.evaluate(project(), name, loaded)


@pipeline.command(epilog="Example: `clipbert dashboard`", rich_help_panel=PANEL)
def dashboard(params: ParamsFile = DEFAULT, overrides: Set = None) -> None:
    """Write artifacts/dashboard/index.html: champions, experiments, data, pipeline runs and decisions."""
    stages.dashboard(project(), load_params(params, overrides))


@pipeline.command(epilog="Example: `clipbert register retrieval`", rich_help_panel=PANEL)
def register(task: TaskName, params: ParamsFile = DEFAULT, overrides: Set = None) -> None:
    """Register a trained model in MLflow as the candidate; equal files are the same version."""
    stages.register(project(), check_task(task), load_params(params, overrides))
