"""SHA-256 checksums of the files of a folder, in a list that `sha256sum --check` can read.

The first line is a comment with the SHA-256 of the other lines, so damage to the list itself is detected. Files that
are not listed are ignored: people and tools add a README or a .gitattributes to a folder.
"""

import hashlib
from collections.abc import Callable, Iterable
from pathlib import Path

from clipbert.files.atomic import atomic_write, sha256_file

CHECKSUMS = "checksums.sha256"
HEADER = "# SHA-256 of the lines below: "
SHOWN = 12  # characters of a digest in a message


class DamagedError(ValueError):
    """A file that is missing or has changed since it was written; the message names the file and the problem."""


def write_checksums(folder: Path, files: Iterable[Path], name: str = CHECKSUMS) -> None:
    """Write the checksums of `files` inside `folder`; an existing list is replaced."""
    _write(folder / name, {path.relative_to(folder).as_posix(): sha256_file(path) for path in files})


def add_checksums(
    folder: Path, files: Iterable[Path], drop: Callable[[str], bool] = lambda _: False, name: str = CHECKSUMS
) -> None:
    """Add or replace the checksums of `files` inside `folder`, and drop those whose path `drop` accepts.

    Raises:
        DamagedError: the existing list is damaged.
    """
    kept = read_checksums(folder, name) if (folder / name).is_file() else {}
    kept = {path: digest for path, digest in kept.items() if not drop(path)}
    _write(folder / name, kept | {path.relative_to(folder).as_posix(): sha256_file(path) for path in files})


def read_checksums(folder: Path, name: str = CHECKSUMS) -> dict[str, str]:
    """Return {path below `folder`: SHA-256} of the listed files.

    Raises:
        DamagedError: the list is missing, empty or damaged.
    """
    path = folder / name
    try:
        text = path.read_bytes()
    except OSError as error:
        raise DamagedError(f"{path}: cannot be read ({error.strerror})") from error
    header, _, body = text.partition(b"\n")
    if header != f"{HEADER}{hashlib.sha256(body).hexdigest()}".encode():
        raise DamagedError(f"{path}: damaged or edited: its lines do not match the checksum in its first line")
    pairs = (line.split("  ", 1) for line in body.decode().splitlines())
    return {file: digest for digest, file in pairs}


def check_files(folder: Path, wanted: Callable[[str], bool] = lambda _: True, name: str = CHECKSUMS) -> None:
    """Check the listed files whose path `wanted` accepts.

    Raises:
        DamagedError: a file is missing or has changed, or the list is damaged; the first problem is reported.
    """
    for file, digest in read_checksums(folder, name).items():
        if wanted(file) and (problem := problem_of(folder / file, digest)) is not None:
            raise DamagedError(problem)


def problem_of(path: Path, expected: str) -> str | None:
    """Return what is wrong with a file that should have the SHA-256 `expected`; None if nothing is."""
    try:
        found = sha256_file(path)
    except FileNotFoundError:
        return f"{path}: not found, but its checksum is listed"
    except OSError as error:
        return f"{path}: cannot be read ({error.strerror})"
    if found == expected:
        return None
    return f"{path}: damaged or edited since it was written (SHA-256 {found[:SHOWN]}, expected {expected[:SHOWN]})"


def _write(path: Path, digests: dict[str, str]) -> None:
    body = "".join(f"{digest}  {file}\n" for file, digest in sorted(digests.items()))
    with atomic_write(path, "w") as out:
        out.write(f"{HEADER}{hashlib.sha256(body.encode()).hexdigest()}\n{body}")
