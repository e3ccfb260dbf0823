"""Checksums beside a model's weights: safetensors itself does not notice a changed byte inside a tensor."""

from pathlib import Path

from clipbert.errors import ModelFolderError
from clipbert.files import changed_files, write_sums

CHECKSUMS = "weights.sha256"  # as sha256sum writes and checks it


def write_checksums(folder: Path) -> None:
    """Write the SHA-256 of each weights file of a model folder."""
    write_sums(folder / CHECKSUMS, sorted(folder.glob("model*.safetensors")))


def check_checksums(folder: Path) -> None:
    """Check the weights against their checksums; a folder without any, of other software, is taken as it is.

    Raises:
        ModelFolderError: a file is missing or has other bytes than when it was saved.
    """
    path = folder / CHECKSUMS
    if not path.is_file():
        return
    for weights, expected, found in changed_files(path):
        if found is None:
            raise ModelFolderError(f"{weights}: not found, but {path} names it: the model folder is incomplete.")
        raise ModelFolderError(
            f"{weights}: SHA-256 is {found[:12]}..., expected {expected[:12]}...: the weights are not those "
            f"that were saved. Get or train the model again; if you changed them yourself, delete {path}."
        )
