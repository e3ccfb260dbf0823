"""The `clipbert` command line: registers the groups of commands, and turns errors into messages and exit codes."""

import os
import sys
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

from clipbert import __version__
from clipbert.cli.backfill import backfilling
from clipbert.cli.compare import comparing
from clipbert.cli.importing import import_group
from clipbert.cli.inspection import inspection
from clipbert.cli.lineage import lineage_group
from clipbert.cli.models import PANEL as MODELS_PANEL
from clipbert.cli.models import models
from clipbert.cli.pipeline import PANEL, pipeline
from clipbert.cli.prediction import predicting
from clipbert.cli.pretrained import pretrained
from clipbert.cli.quarantine import quarantine
from clipbert.cli.release import release
from clipbert.cli.search import PANEL as SEARCH_PANEL
from clipbert.cli.search import index_group, searching
from clipbert.cli.serving import serving
from clipbert.cli.study import studying
from clipbert.cli.use import using
from clipbert.console import errors, use_utf8
from clipbert.errors import USER_ERROR, ClipBertError, missing_package
from clipbert.exit_status import write_exit_code
from clipbert.files.leftovers import project_folders, remove_scratch_folders, remove_stale_temporaries
from clipbert.interruption import Interrupted, closing_line, raise_on_interrupt
from clipbert.redact import install_redaction

# Set for this process and its children unless the environment has them already.
ENVIRONMENT = {
    "ARROW_DEFAULT_MEMORY_POOL": "system",  # Arrow's own allocator keeps freed memory
    "OMP_WAIT_POLICY": "PASSIVE",  # spinning OpenMP threads slow down a busy machine several times
    "DO_NOT_TRACK": "true",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "GX_ANALYTICS_ENABLED": "false",
    "HF_HUB_DISABLE_TELEMETRY": "1",
}
# Set whatever the environment has: the project's models are safetensors, and no command needs a pickle.
NO_PICKLE = {"MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false"}


class CommandGroup(TyperGroup):
    """The commands of `clipbert`; Ctrl-C prints the state that the command left, and exits with code 130."""

    def invoke(self, ctx: Any) -> Any:
        try:
            raise_on_interrupt()
            return super().invoke(ctx)
        except KeyboardInterrupt:
            errors.print(closing_line(ctx.invoked_subcommand or "", sys.argv[1:]))
            raise Interrupted from None


app = typer.Typer(
    cls=CommandGroup,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(import_group, name="import", rich_help_panel=PANEL)
app.add_typer(pipeline)
app.add_typer(quarantine, name="quarantine", rich_help_panel=PANEL)
app.add_typer(release)
app.add_typer(backfilling)
app.add_typer(comparing)
app.add_typer(lineage_group)
app.add_typer(studying)
app.add_typer(using)
app.add_typer(predicting)
app.add_typer(serving)
app.add_typer(searching)
app.add_typer(index_group, name="index", rich_help_panel=SEARCH_PANEL)
app.add_typer(models)
app.add_typer(pretrained, name="pretrained", rich_help_panel=MODELS_PANEL)
app.add_typer(inspection)


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

    Every command works on the project in the current folder.
    """
    remove_stale_temporaries(project_folders(Path.cwd()))
    remove_scratch_folders()


def main() -> NoReturn:
    """Run the command line: exit code 0 on success, 2 on an error that the user can fix, 1 on any other."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    os.environ.update(NO_PICKLE)
    use_utf8()
    install_redaction()
    try:
        app(prog_name="clipbert")
    except (ClipBertError, ModuleNotFoundError) as error:
        message = missing_package(error) if isinstance(error, ModuleNotFoundError) else str(error)
        if message is None:
            raise
        if write_exit_code(USER_ERROR):
            errors.print(f"clipbert: {message}")
        sys.exit(USER_ERROR)
    except SystemExit as end:
        if isinstance(end.code, int) and end.code > 128:
            write_exit_code(end.code)
        raise
    sys.exit(0)
