"""The command `compare`: which of several models is better, by how much, and at what cost."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from clipbert.cli.options import DEFAULT, ParamsFile, Set, complete_task, project
from clipbert.cli.release import PANEL
from clipbert.config.load import load_params
from clipbert.config.tasks import task_names
from clipbert.console import RedactedConsole, console
from clipbert.errors import ClipBertError

if TYPE_CHECKING:
    from clipbert.evaluation.comparison.result import Comparison

comparing = typer.Typer(rich_markup_mode="markdown")
SEED = "seed"
WIDTH = 100  # columns


@comparing.command(
    epilog="Example: `clipbert compare retrieval@champion slower --html compare.html`", rich_help_panel=PANEL
)
def compare(
    models: Annotated[
        list[str],
        typer.Argument(
            metavar="A B [C...]",
            help="DVC experiments, git revisions, MLflow runs (name or id), registered versions "
            "(`models:/NAME/3`, `models:/NAME@champion`, `retrieval@champion`), or `workspace`.",
        ),
    ],
    task: Annotated[
        str | None,
        typer.Option(metavar="TASK", help=f"One of: {', '.join(task_names())}.", autocompletion=complete_task),
    ] = None,
    group_by: Annotated[
        str | None,
        typer.Option(metavar="seed", help="Group trainings that differ in the seed only, and compare the groups."),
    ] = None,
    all_pairs: Annotated[bool, typer.Option(help="Compare every pair instead of each model with A.")] = False,
    html: Annotated[Path | None, typer.Option(metavar="FILE", help="Write a page with the items won and lost.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
    metrics: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write flat metrics, which `dvc metrics show FILE` reads.")
    ] = None,
    mlflow: Annotated[
        bool, typer.Option("--mlflow", help="Log numbers, page and JSON as a run of NAME-comparisons.")
    ] = False,
    items: Annotated[int, typer.Option(min=0, max=200, help="Items won and lost that the page shows, each.")] = 12,
    params: ParamsFile = DEFAULT,
    overrides: Set = None,
) -> None:
    """Compare models on the same test items: effects with intervals, tests, items won and lost, parameters and cost.

    The first model is the reference. Models with different test items are refused.
    """
    from clipbert.evaluation.comparison.export import to_json, to_metrics
    from clipbert.evaluation.comparison.page import write_page
    from clipbert.evaluation.comparison.result import compare
    from clipbert.files.atomic import write_json
    from clipbert.release.compared_models import ModelFinder

    if group_by not in (None, SEED):
        raise ClipBertError(f"--group-by {group_by}: expected seed, the only parameter that can be grouped by.")
    for option, path in (("--html", html), ("--metrics", metrics)):
        if path is not None and not path.absolute().parent.is_dir():
            raise ClipBertError(f"{option} {path}: the folder {path.parent} does not exist. Create it first.")
    release_name = load_params(params, overrides).release.name
    finder = ModelFinder(project(), release_name, task)
    found = compare(finder.load(models), group_by == SEED, all_pairs)
    places = []
    if html is not None:
        write_page(found, project().frames, html, items)
        places.append(f"page: {html}")
    if metrics is not None:
        write_json(metrics, to_metrics(found), sort_keys=False)
        places.append(f"metrics: {metrics}")
    if mlflow:
        from clipbert.release.comparison_run import EXPERIMENT, log_comparison

        run_id, experiment_id = log_comparison(project(), release_name, found, items)
        places.append(f"MLflow: run {run_id} of {release_name}-{EXPERIMENT}, experiment {experiment_id}")
    if as_json:
        typer.echo(json.dumps(to_json(found), indent=2, ensure_ascii=False))
        return
    print_comparison(found)
    for line in [*finder.notes, *places]:
        console.print(line)


def print_comparison(comparison: "Comparison") -> None:
    """Print the tables of a comparison."""
    from clipbert.cli.comparison_tables import comparison_tables

    width = min(console.width, WIDTH) if console.is_terminal else WIDTH
    tables = RedactedConsole(width=width, highlight=False, markup=False, emoji=False)
    for part in comparison_tables(comparison):
        tables.print(part)
