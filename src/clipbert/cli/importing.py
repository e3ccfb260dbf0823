"""`clipbert import NAME`: one command for each registered importer, generated from its description."""

import inspect
from collections.abc import MutableMapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

if TYPE_CHECKING:
    from clipbert.data.importers.base import Source
    from clipbert.data.importers.registry import Importer


class ImportGroup(TyperGroup):
    """The commands of `clipbert import`, made when they are asked for: other verbs do not load the importers."""

    @property
    def commands(self) -> MutableMapping[str, Any]:
        """Return the command of each importer by name."""
        from clipbert.data.importers.registry import importers

        return {name: _command(made) for name, made in importers().items()}

    @commands.setter
    def commands(self, commands: MutableMapping[str, Any]) -> None:
        """Ignore the commands of the base class, which has none."""


import_group = typer.Typer(
    cls=ImportGroup,
    no_args_is_help=True,
    rich_markup_mode="markdown",
    help="Import an official data set: its annotation files and media become data/ in the canonical layout.",
)


@import_group.callback()
def _options() -> None:
    """Import an official data set: its annotation files and media become data/ in the canonical layout."""


def _command(made: "Importer") -> Any:
    """Return the command of an importer, whose arguments and options follow the signature of its function."""

    def run(annotations: Path, media: Path, **values: Any) -> None:
        source = _source(media, values.pop("hold_out", None))
        for parameter, option in made.parameters():
            if option.parse is not None:
                values[parameter.name] = option.parse(values[parameter.name] or [])
        _print_summary(made.run(annotations, source, **values))

    given = [
        _parameter(
            "annotations",
            Path,
            typer.Argument(metavar="ANNOTATIONS", help=f"A file or the folder of several: {made.annotations}."),
        ),
        _parameter(
            "media",
            Path,
            typer.Argument(metavar=made.media.upper(), help="The folder of the media; subfolders are searched too."),
        ),
    ]
    for parameter, option in made.parameters():
        many = option.parse is not None
        kind = list[str] | None if many else parameter.annotation
        default = None if many else parameter.default
        names = [option.flag] if option.flag else []
        given.append(
            _parameter(parameter.name, kind, typer.Option(*names, metavar=option.metavar, help=option.help), default)
        )
    if made.hold_out:
        hold_out = typer.Option(
            metavar="SPLIT=FRACTION",
            help="Move this fraction of the training media to val or test, chosen by a hash. Repeatable.",
        )
        given.append(_parameter("hold_out", list[str] | None, hold_out, None))
    run.__signature__ = inspect.Signature(given)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in given}
    app = typer.Typer(add_completion=False, rich_markup_mode="markdown")
    app.command(made.name, help=made.about, epilog=f"Example: `clipbert import {made.name} {made.example}`")(run)
    return typer.main.get_command(app)


def _parameter(name: str, kind: Any, info: Any, default: Any = inspect.Parameter.empty) -> inspect.Parameter:
    keyword = inspect.Parameter.KEYWORD_ONLY
    return inspect.Parameter(name, keyword, default=default, annotation=Annotated[kind, info])


def _source(media: Path, hold_out: list[str] | None) -> "Source":
    """Return where to read media and where to write: the project's data/."""
    from clipbert.console import console
    from clipbert.data.importers.base import Source
    from clipbert.data.importers.splits import read_fractions
    from clipbert.files.linked_folders import writable_data
    from clipbert.project import Project

    data = Project(Path.cwd()).data
    if data.is_symlink():
        message = f"data is a link to {data.resolve()}: DVC cannot version it (docs/tutorial/own-data.md)"
        console.print(message)
    return Source(media, writable_data(data), read_fractions(hold_out or [], "--hold-out"))


def _print_summary(summary: Any) -> None:
    from clipbert.console import console

    for line in summary.lines():
        console.print(line)
