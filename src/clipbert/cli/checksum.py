"""`clipbert checksum`: check the files of a model folder, and accept a change made on purpose."""

from pathlib import Path
from typing import Annotated

import typer

from clipbert.console import console
from clipbert.errors import ModelFolderError


def checksum(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A model folder, artifacts/models/TASK for example.")],
    check: Annotated[bool, typer.Option("--check", help="Only check; exit with 2 if a file is damaged.")] = False,
) -> None:
    """Write the checksums of a model folder again after you changed a file in it on purpose.

    Every file but README.md is listed in `checksums.sha256`; a model with another byte in any of them is refused.
    """
    # the checks of a model folder import transformers' card writer: not before the verb needs it
    from clipbert.model.weights.checksums import damaged_files, sign_folder

    if not (folder / "config.json").is_file():
        raise ModelFolderError(f"{folder / 'config.json'}: not found: expected a model folder.")
    if check:
        if problems := damaged_files(folder):
            raise ModelFolderError("\n".join([*problems, f"To accept the folder as it is: clipbert checksum {folder}"]))
        console.print(f"{folder}: every listed file is as it was written.", markup=False)
        return
    changes = sign_folder(folder)
    for line in changes:
        console.print(f"  {line}", markup=False)
    console.print(f"{folder}: checksums written; {len(changes)} file(s) accepted as changed.", markup=False)
