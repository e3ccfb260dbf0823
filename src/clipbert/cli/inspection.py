"""Commands that show the parameters, recipes, results and health of a project."""

from pathlib import Path
from typing import Annotated

import typer

from clipbert.cli.options import DEFAULT, ParamsFile, Set, project
from clipbert.config.load import load_params
from clipbert.console import console
from clipbert.errors import OUR_ERROR, USER_ERROR, ClipBertError

inspection = typer.Typer(rich_markup_mode="markdown")
PANEL = "Project"


@inspection.command("params", epilog="Example: `clipbert params train.lr`", rich_help_panel=PANEL)
def show_params(
    name: Annotated[str | None, typer.Argument(metavar="NAME", help="Explain one parameter, such as train.lr.")] = None,
    params: ParamsFile = DEFAULT,
    overrides: Set = None,
    complete: Annotated[
        bool, typer.Option("--complete", help="Print a complete params.yaml, with defaults for missing parameters.")
    ] = False,
) -> None:
    """List every parameter with its value, range and description, or explain one."""
    from clipbert.config.help import complete_file, explain, explain_one

    loaded = load_params(params, overrides, complete=not complete)
    if complete:
        typer.echo(complete_file(loaded), nl=False)
    elif name is not None:
        for title, text in explain_one(loaded, name, Path.cwd()):
            console.print(f"{title:<8} {text}")
    else:
        for key, value, meaning in explain(loaded):
            console.print(f"{key:<36} {value!s:<10} {meaning}")


@inspection.command(epilog="Example: `clipbert recipe msrvtt_retrieval`", rich_help_panel=PANEL)
def recipe(
    name: Annotated[str | None, typer.Argument(metavar="NAME", help="A recipe. Default: list the recipes.")] = None,
    params: ParamsFile = DEFAULT,
) -> None:
    """Print a recipe as arguments for DVC: `dvc exp run -n paper $(clipbert recipe msrvtt_retrieval)`."""
    from clipbert.config.recipes import dvc_arguments, list_recipes

    folder = project().recipes
    if name is not None:
        typer.echo(" ".join(dvc_arguments(folder, name, params)))
        return
    for known, description in list_recipes(folder).items():
        console.print(f"{known:<24} {description}")


@inspection.command(epilog="Example: `clipbert recommend`", rich_help_panel=PANEL)
def recommend(
    params: ParamsFile = DEFAULT,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Recommend a recipe for the manifest and this machine, with the expected time and quality.

    Run `clipbert ingest` first. Nothing is changed.
    """
    import json

    from clipbert.recommend.machine import probe_machine
    from clipbert.recommend.recommendation import find_parts, recommend
    from clipbert.recommend.text import lines

    here = project()
    advice = recommend(here, params, probe_machine(), find_parts(here.root))
    if as_json:
        typer.echo(json.dumps(advice.as_json(), indent=2))
        return
    for line in lines(advice):
        console.print(line)


@inspection.command(epilog="Example: `clipbert summary`", rich_help_panel=PANEL)
def summary(params: ParamsFile = DEFAULT, overrides: Set = None) -> None:
    """Show the metrics of the pipeline's tasks, their registered versions, and where to look next."""
    from clipbert.cli.summary import print_summary

    print_summary(project(), load_params(params, overrides))


@inspection.command(epilog="Example: `clipbert experiments --task retrieval --sort test`", rich_help_panel=PANEL)
def experiments(
    task: Annotated[
        str | None, typer.Option("--task", metavar="TASK", help="Show this task. Default: all tasks of the pipeline.")
    ] = None,
    sort: Annotated[
        str, typer.Option("--sort", metavar="KEY", help="One of: validation, test, cost, created, name.")
    ] = "validation",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    params: ParamsFile = DEFAULT,
    overrides: Set = None,
) -> None:
    """List the experiments of `dvc exp run` with their changed parameters, metrics and cost."""
    import json

    from clipbert.cli.experiments import SORTS, print_experiments, sorted_by
    from clipbert.config.tasks import check_task
    from clipbert.dashboard.experiments import read_experiments

    if sort not in SORTS:
        raise ClipBertError(f"--sort {sort}: expected one of {', '.join(SORTS)}.")
    loaded = load_params(params, overrides)
    tasks = [check_task(task)] if task else [*loaded.pretrain_run, *loaded.tasks_run]
    found = read_experiments(project().root, tasks)
    if as_json:
        typer.echo(json.dumps([one.to_json() for one in sorted_by(found, sort)], indent=2))
    else:
        print_experiments(found, tasks, sort)


@inspection.command(epilog="Example: `clipbert doctor`", rich_help_panel=PANEL)
def doctor() -> None:
    """Check versions, device, decoders, servers, disk and artifacts, and list every problem with its fix."""
    from clipbert.cli.doctor import doctor, is_project

    if doctor(Path.cwd()):
        raise typer.Exit(OUR_ERROR if is_project(Path.cwd()) else USER_ERROR)
