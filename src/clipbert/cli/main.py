"""The `clipbert` command: one verb a stage, and one for each thing a person does with a model."""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

from clipbert import __version__
from clipbert.cli.checksum import checksum
from clipbert.cli.convert import convert
from clipbert.cli.history import history
from clipbert.cli.importing import import_group
from clipbert.cli.options import DEFAULT, ParamsFile, Set, complete_task, project
from clipbert.cli.quarantine import quarantine
from clipbert.cli.track import track
from clipbert.config.schema import TASKS, Params, check_task, load_params
from clipbert.console import console, errors, use_utf8
from clipbert.errors import OUR_ERROR, USER_ERROR, ClipBertError, missing_package
from clipbert.exit_status import end_all
from clipbert.files.leftovers import project_folders, remove_scratch_folders, remove_stale_temporaries
from clipbert.interruption import Interrupted, closing_line, raise_on_interrupt
from clipbert.redact import install


class Verbs(TyperGroup):
    """The verbs of `clipbert`; Ctrl-C ends one with a line that says what is left of its work, and exit code 130."""

    def invoke(self, ctx: Any) -> Any:
        try:
            raise_on_interrupt()
            return super().invoke(ctx)
        except KeyboardInterrupt:
            errors.print(closing_line(ctx.invoked_subcommand or "", sys.argv[1:]), markup=False)
            raise Interrupted from None


app = typer.Typer(
    cls=Verbs,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Train, version, compare, promote and use ClipBERT video-and-language models. "
    "Every verb works on the project in the current folder.",
)
app.add_typer(import_group, name="import")
app.add_typer(quarantine, name="quarantine")
app.add_typer(track, name="track")
app.command(
    "convert",
    epilog="Example: `clipbert convert OLD.pt --model-config base_model.json --task retrieval --out models/old`",
)(convert)
app.command("history", epilog="Example: `clipbert history retrieval`")(history)
app.command("checksum", epilog="Example: `clipbert checksum artifacts/models/retrieval --check`")(checksum)


TaskName = Annotated[
    str, typer.Argument(metavar="TASK", help=f"One of: {', '.join(TASKS)}.", autocompletion=complete_task)
]


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"clipbert {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_show_version, help="Show the version and exit.")
    ] = False,
) -> None:
    """Train, version, compare, promote and use ClipBERT video-and-language models.

    Every verb works on the project in the current folder.
    """
    remove_stale_temporaries(project_folders(Path.cwd()))
    remove_scratch_folders()


def stage(run: Callable[..., Any], params: Path, overrides: list[str] | None, task: str | None = None) -> None:
    """Run a verb's work with its parameters."""
    loaded: Params = load_params(params, overrides)
    arguments = [project()] if task is None else [project(), check_task(task)]
    run(*arguments, loaded)


@app.command("sample-data", epilog="Example: `clipbert sample-data --seed 0`")
def sample_data(
    seed: Annotated[int, typer.Option(min=0, help="Another seed, another set; the same seed, the same bytes.")] = 0,
) -> None:
    """Make the embedded sample set of moving shapes in data/."""
    from clipbert import stages

    stages.sample_data(project(), seed)


@app.command(epilog="Example: `clipbert ingest --set ingest.timeout_s=60`")
def ingest(params: ParamsFile = DEFAULT, overrides: Set = None) -> None:
    """Probe every file of data/, checksum it, read the annotations, quarantine what cannot be read."""
    from clipbert import stages

    stage(stages.ingest, params, overrides)


@app.command(epilog="Example: `clipbert validate`")
def validate(params: ParamsFile = DEFAULT, overrides: Set = None) -> None:
    """Check the manifest with Great Expectations: a hard gate, with pages to read."""
    from clipbert import stages

    stage(stages.validate, params, overrides)


@app.command(epilog="Example: `clipbert frames --set frames.fps=1`")
def frames(
    params: ParamsFile = DEFAULT,
    overrides: Set = None,
    repair: Annotated[
        bool, typer.Option("--repair", help="Check every byte of the cache, and try quarantined files again.")
    ] = False,
) -> None:
    """Decode each video once into the sampled-frame cache; what is unchanged is kept."""
    from clipbert import stages

    stages.frames(project(), load_params(params, overrides), repair)


@app.command(epilog="Example: `clipbert train retrieval --set train.lr=0.0005`")
def train(task: TaskName, params: ParamsFile = DEFAULT, overrides: Set = None) -> None:
    """Train a task's model from pixels to text; a killed training goes on from its last checkpoint.

    With `train.processes` above 1 this is a torchrun of its own. SIGTERM and Ctrl-C save first: exit codes 143 and 130.
    """
    from clipbert import stages
    from clipbert.exit_status import ended_before, started_by_torchrun

    if ended_before():
        raise typer.Exit
    loaded, name = load_params(params, overrides), check_task(task)
    if loaded.train.processes > 1 and not started_by_torchrun():
        from clipbert.distributed.launch import launch

        raise typer.Exit(launch(loaded.train.processes, loaded.train.max_restarts, sys.argv[1:]))
    stages.train(project(), name, loaded)


@app.command(epilog="Example: `clipbert evaluate retrieval --set evaluate.clips=8`")
def evaluate(task: TaskName, params: ParamsFile = DEFAULT, overrides: Set = None) -> None:
    """Measure a trained model on the test split, beside chance and beside blank frames; write the report."""
    from clipbert import stages

    stage(stages.evaluate, params, overrides, task)


@app.command(epilog="Example: `clipbert register retrieval`")
def register(task: TaskName, params: ParamsFile = DEFAULT, overrides: Set = None) -> None:
    """Register a trained model in MLflow as the candidate; the same files are the same version."""
    from clipbert import stages

    stage(stages.register, params, overrides, task)


@app.command(epilog="Example: `clipbert promote retrieval`")
def promote(
    task: TaskName,
    params: ParamsFile = DEFAULT,
    overrides: Set = None,
    reconsider: Annotated[bool, typer.Option(help="Consider a version again that was rolled back.")] = False,
    reevaluate: Annotated[
        bool, typer.Option(help="Evaluate the champion again instead of using its stored predictions.")
    ] = False,
) -> None:
    """Make the candidate the champion if it is better on the same test items, else say why not."""
    from clipbert import stages

    stages.promote(project(), check_task(task), load_params(params, overrides), reconsider, reevaluate)


@app.command(epilog="Example: `clipbert rollback retrieval`")
def rollback(task: TaskName, params: ParamsFile = DEFAULT, overrides: Set = None) -> None:
    """Take the last promotion back."""
    from clipbert import stages

    stages.rollback(project(), check_task(task), load_params(params, overrides))


@app.command("params", epilog="Example: `clipbert params train.lr`")
def show_params(
    name: Annotated[
        str | None, typer.Argument(metavar="[NAME]", help="Explain this one, train.lr for example.")
    ] = None,
    params: ParamsFile = DEFAULT,
    overrides: Set = None,
    complete: Annotated[
        bool, typer.Option("--complete", help="Print a complete params.yaml, with defaults for what the file lacks.")
    ] = False,
) -> None:
    """List every parameter with its value, its range and its meaning; or explain one."""
    from clipbert.config.help import complete_file, explain, explain_one

    loaded = load_params(params, overrides, complete=not complete)
    if complete:
        typer.echo(complete_file(loaded), nl=False)
    elif name is not None:
        for title, text in explain_one(loaded, name, Path.cwd()):
            console.print(f"{title:<8} {text}", markup=False)
    else:
        for key, value, meaning in explain(loaded):
            console.print(f"{key:<36} {value!s:<10} {meaning}", markup=False)


@app.command(epilog="Example: `clipbert recipe msrvtt_retrieval`")
def recipe(
    name: Annotated[str | None, typer.Argument(help="One of them; without it, they are listed.")] = None,
    params: ParamsFile = DEFAULT,
) -> None:
    """A run of the paper as words for DVC: `dvc exp run -n paper $(clipbert recipe msrvtt_retrieval)`."""
    from clipbert.config.recipes import dvc_arguments, list_recipes

    folder = project().recipes
    if name is not None:
        typer.echo(" ".join(dvc_arguments(folder, name, params)))
        return
    for known, what in list_recipes(folder).items():
        console.print(f"{known:<24} {what}", markup=False)


@app.command(epilog="Example: `clipbert summary`")
def summary(params: ParamsFile = DEFAULT, overrides: Set = None) -> None:
    """Show the metrics of the pipeline's tasks, their registered versions, and where to look."""
    from clipbert.cli.summary import print_summary

    print_summary(project(), load_params(params, overrides))


@app.command(epilog="Example: `clipbert doctor`")
def doctor() -> None:
    """Versions, device, decoders, servers, disk, and what is wrong with them."""
    from clipbert.cli.doctor import doctor, is_project

    problems = doctor(Path.cwd())
    if problems:
        raise typer.Exit(OUR_ERROR if is_project(Path.cwd()) else USER_ERROR)


def main() -> NoReturn:
    """Run the command line: exit 0 on success, 2 on a user's error, 1 on ours."""
    # Spinning OpenMP threads make a busy machine several times slower; Arrow's own allocator keeps what was freed;
    # telemetry is nobody's business.
    for name, value in (
        ("ARROW_DEFAULT_MEMORY_POOL", "system"),
        ("OMP_WAIT_POLICY", "PASSIVE"),
        ("DO_NOT_TRACK", "true"),
        ("MLFLOW_DISABLE_TELEMETRY", "true"),
        ("GX_ANALYTICS_ENABLED", "false"),
        ("HF_HUB_DISABLE_TELEMETRY", "1"),
    ):
        os.environ.setdefault(name, value)
    use_utf8()
    install()
    try:
        app(prog_name="clipbert")
    except (ClipBertError, ModuleNotFoundError) as error:
        message = missing_package(error) if isinstance(error, ModuleNotFoundError) else str(error)
        if message is None:
            raise
        if end_all(USER_ERROR):
            errors.print(f"clipbert: {message}", markup=False)
        sys.exit(USER_ERROR)
    except SystemExit as end:
        if isinstance(end.code, int) and end.code > 128:
            end_all(end.code)
        raise
    sys.exit(0)
