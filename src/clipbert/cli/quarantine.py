"""`clipbert quarantine`: which files cannot be used, why, and another try."""

from pathlib import Path
from typing import Annotated

import typer

from clipbert.cli.options import DEFAULT, ParamsFile, Set, project
from clipbert.config.schema import load_params

quarantine = typer.Typer(no_args_is_help=True, help="Files that cannot be used: why, what to do, another try.")


@quarantine.command("list", epilog="Example: `clipbert quarantine list --reason timeout`")
def list_files(
    reason: Annotated[str | None, typer.Option(help="Only those with this reason code.")] = None,
    json: Annotated[bool, typer.Option("--json", help="One JSON object a line, for programs.")] = False,
) -> None:
    """List the files in quarantine, of ingest and of frames, with their reasons."""
    from clipbert.cli.quarantined_files import list_quarantine

    list_quarantine(project(), reason, json)


@quarantine.command(epilog="Example: `clipbert quarantine show videos/a.mp4`")
def show(media: Annotated[str, typer.Argument(metavar="MEDIA", help="The file, as a path below data/.")]) -> None:
    """Say all that is known about one file in quarantine, and what to do about it."""
    from clipbert.cli.quarantined_files import show_quarantined

    show_quarantined(project(), media)


@quarantine.command(epilog="Example: `clipbert quarantine retry --set ingest.timeout_s=120`")
def retry(
    media: Annotated[list[str] | None, typer.Argument(metavar="[MEDIA]...", help="Without one: all of them.")] = None,
    params: ParamsFile = DEFAULT,
    overrides: Set = None,
) -> None:
    """Probe files in quarantine again, say how each ended, and write the manifest anew."""
    from clipbert.cli.quarantined_files import retry_quarantined

    retry_quarantined(project(), media or [], load_params(Path(params), overrides))
