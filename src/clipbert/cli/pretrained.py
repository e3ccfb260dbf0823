"""Commands for pretrained parts: list them, and write their folders."""

from pathlib import Path
from typing import Annotated

import typer

from clipbert.cli.options import DEFAULT, ParamsFile, Set, project
from clipbert.console import console
from clipbert.errors import ClipBertError

pretrained = typer.Typer(
    rich_markup_mode="markdown",
    no_args_is_help=True,
    help="Get pretrained parts: folders for `model.vision` and `model.text`.",
)


@pretrained.command("list", epilog="Example: `clipbert pretrained list`")
def list_parts() -> None:
    """List the parts that are in wheels of the package index."""
    from clipbert.pretrained.folder import MODELS
    from clipbert.pretrained.wheels import WHEELS

    for part in WHEELS.values():
        folder = Path(MODELS, part.name)
        here = f"in {folder}" if folder.is_dir() else "installed" if part.is_installed else "not installed"
        lines = f"{part.name} ({here})\n  model.{part.kind}: {part.summary}\n  {part.requirement}, {part.license}"
        console.print(lines)
    console.print("Any other model: clipbert pretrained get OWNER/NAME, with an id of the hub")


@pretrained.command(epilog="Example: `clipbert pretrained get efficientnet-lite0`")
def get(
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="NAME",
            help="A name of `clipbert pretrained list`, or a hub id (owner/name). Default: the folders in models/ that "
            "model.vision and model.text name.",
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", help="The folder to write. Default: models/NAME.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a folder that is damaged or another part's.")] = False,
    params_file: ParamsFile = DEFAULT,
    set_: Set = None,
) -> None:
    """Write the folder of a pretrained part, with its origin, license and checksums.

    Parts in wheels need no network. A folder that is complete and unchanged is left as it is.
    """
    from clipbert.pretrained.folder import MODELS, get_part

    if name is None:
        if out is not None:
            raise ClipBertError("--out: needs NAME; without NAME the folders are those of model.vision and model.text.")
        from clipbert.config.load import load_params
        from clipbert.stages import pretrained as get_missing

        get_missing(project(), load_params(params_file, set_), force)
        return
    console.print(get_part(name, out or Path(MODELS, name.rpartition("/")[2]), force))
