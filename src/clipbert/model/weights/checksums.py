"""Checksums of the files of a model folder; a changed weight, setting or vocabulary is refused on loading.

safetensors does not notice a changed byte inside a tensor, and an edited config.json is a valid configuration.
"""

from collections.abc import Iterable
from pathlib import Path

from clipbert.errors import ModelFolderError
from clipbert.files.atomic import changed_files
from clipbert.files.checksums import (
    CHECKSUMS,
    DamagedError,
    add_checksums,
    check_files,
    problem_of,
    read_checksums,
    write_checksums,
)
from clipbert.model.weights.card import CARD

WEIGHTS_ONLY = "weights.sha256"  # written by ClipBERT 0.x, for the weights only
MODEL_FILES = ("config.json", "generation_config.json")
REMEDY = (
    "Get, train or convert the model again (an artifact of the pipeline: `dvc checkout {folder}`). "
    "If you changed the file on purpose, accept it: clipbert checksum {folder}"
)


def sign_model(folder: Path) -> None:
    """Add the checksums of the configuration and the weights, after `save_pretrained` of a model wrote them."""
    weights = [path for path in folder.glob("model*") if _is_weights(path.name)]
    configuration = [folder / name for name in MODEL_FILES if (folder / name).is_file()]
    _add(folder, [*configuration, *weights])


def sign_files(folder: Path, files: Iterable[Path]) -> None:
    """Add the checksums of files that were just written into a model folder."""
    _add(folder, [path for path in files if path.is_file()])


def sign_folder(folder: Path) -> list[str]:
    """Write the current checksums of every file of a model folder except its card.

    Returns:
        a line for each file that is new, gone or changed since the last checksums.
    """
    try:
        before = read_checksums(folder) if (folder / CHECKSUMS).is_file() else {}
    except DamagedError:
        before = {}
    files = _files(folder)
    write_checksums(folder, files)
    (folder / WEIGHTS_ONLY).unlink(missing_ok=True)
    after = read_checksums(folder)
    changed = [f"{name}: changed" for name in before.keys() & after.keys() if before[name] != after[name]]
    changed += [f"{name}: new" for name in after.keys() - before.keys()]
    return sorted(changed + [f"{name}: gone" for name in before.keys() - after.keys()])


def check_model(folder: Path, weights: bool = True) -> None:
    """Check the files of a model folder; a folder without checksums, written by other software, passes.

    Args:
        weights: False leaves out the weights, which are large; for readers of the configuration and the tokenizer.

    Raises:
        ModelFolderError: a file is missing or has changed since it was saved, or the checksums are damaged.
    """
    remedy = REMEDY.format(folder=folder)
    if (folder / CHECKSUMS).is_file():
        try:
            check_files(folder, lambda name: weights or not _is_weights(name))
        except DamagedError as error:
            raise ModelFolderError(f"{error}. {remedy}") from error
    elif weights and (folder / WEIGHTS_ONLY).is_file():
        for path, expected, _ in changed_files(folder / WEIGHTS_ONLY):
            raise ModelFolderError(f"{problem_of(path, expected)}. {remedy}")


def damaged_files(folder: Path) -> list[str]:
    """Return a message for each missing or damaged file of a model folder.

    A folder without checksums gives a message too, because damage would not be noticed.
    """
    if not (folder / CHECKSUMS).is_file():
        return [f"{folder / CHECKSUMS}: not found: damage to the model would not be noticed"]
    try:
        listed = read_checksums(folder)
    except DamagedError as error:
        return [str(error)]
    problems = (problem_of(folder / name, digest) for name, digest in listed.items())
    return [problem for problem in problems if problem is not None]


def _add(folder: Path, files: list[Path]) -> None:
    try:
        add_checksums(folder, files, drop=_is_weights if any(_is_weights(path.name) for path in files) else _never)
    except DamagedError as error:
        raise ModelFolderError(f"{error}. {REMEDY.format(folder=folder)}") from error
    (folder / WEIGHTS_ONLY).unlink(missing_ok=True)


def _files(folder: Path) -> list[Path]:
    """Return all files except the card, which registration completes, and hidden files and folders."""
    return [
        path
        for path in folder.rglob("*")
        if path.is_file()
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
        and path.relative_to(folder).as_posix() not in (CARD, CHECKSUMS, WEIGHTS_ONLY)
    ]


def _is_weights(name: str) -> bool:
    return name.startswith("model") and name.endswith((".safetensors", ".safetensors.index.json"))


def _never(_: str) -> bool:
    return False
