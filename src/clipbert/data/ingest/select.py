"""Selection of the media files below data/, and of those that must not be opened."""

import os
import unicodedata
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from clipbert.data.annotations import FILES
from clipbert.data.ingest.probe import Rejected
from clipbert.errors import ClipBertError
from clipbert.video.media_types import IMAGE_SUFFIXES, VIDEO_SUFFIXES

CONTROL = ("Cc", "Zl", "Zp")


@dataclass
class Selection:
    """Names of the media files, sorted; those among them that must not be opened; the number of other files."""

    media: list[str] = field(default_factory=list)
    rejected: dict[str, Rejected] = field(default_factory=dict)
    ignored_files: int = 0


def select_media(data: Path, named: Collection[str], linked: Sequence[Path] = ()) -> Selection:
    """Select the media files below `data` by name and kind.

    A file of an unknown type, a hidden file and one behind a linked folder count if a text names them. Nothing outside
    `data` is opened: links that lead out are rejected.

    Args:
        named: the media that texts name.
        linked: folders outside `data` that links to files may lead to: DVC's cache.

    Raises:
        ClipBertError: a folder cannot be read.
    """
    root = data.resolve()
    annotations = {file.name for file in FILES}
    found = Selection()
    walked = set(_walk(data))
    for name in sorted({*walked, *_only_named(data, named, walked)}):
        path = data / name
        known = path.suffix.lower() in VIDEO_SUFFIXES | IMAGE_SUFFIXES
        to_folder = path.is_symlink() and path.is_dir()
        if to_folder and path.resolve().is_relative_to(root):
            continue
        if not (known or name in named or to_folder):
            found.ignored_files += name not in annotations
            continue
        readable = readable_name(name)
        if rejected := _rejected(path, readable != name, data, (root, *linked)):
            found.rejected[readable] = rejected
        found.media.append(readable)
    return found


def readable_name(name: str) -> str:
    """Return a file's name on one line of valid UTF-8, with other bytes and control characters escaped."""
    text = os.fsencode(name).decode("utf-8", "backslashreplace")
    return "".join(
        char.encode("unicode_escape").decode() if unicodedata.category(char) in CONTROL else char for char in text
    )


def _rejected(path: Path, odd_name: bool, data: Path, roots: tuple[Path, ...]) -> Rejected | None:
    if odd_name:
        return Rejected("unsupported_path", "its name is not UTF-8 or holds a control character; rename it")
    try:
        real = path.resolve()
        if not any(real.is_relative_to(root) for root in roots):
            return Rejected("unsupported_path", f"a link that leads out of {data}, not followed; put a copy there")
        if not path.exists():
            return Rejected("unsupported_path", "a link to nothing")
        if not path.is_file():
            return Rejected("unsupported_path", "not a regular file")
    except (OSError, RuntimeError) as error:
        return Rejected("unsupported_path", f"cannot be reached ({getattr(error, 'strerror', None) or error})")
    return None


def _only_named(data: Path, named: Collection[str], walked: set[str]) -> Iterator[str]:
    """Yield the files that a text names and that `_walk` skips: hidden ones, and those behind a linked folder."""
    for name in named:
        if name not in walked and os.path.lexists(data / name):
            yield name


def _walk(data: Path) -> list[str]:
    """Yield the paths below `data` of all files and of links to folders, without hidden ones."""

    def refuse(error: OSError) -> None:
        raise ClipBertError(f"{error.filename}: cannot be read ({error.strerror}).") from error

    found = []
    for folder, subfolders, names in os.walk(data, onerror=refuse):
        place = Path(folder).relative_to(data)
        subfolders[:] = [name for name in subfolders if not name.startswith(".")]
        links = [name for name in subfolders if (Path(folder) / name).is_symlink()]
        found += [(place / name).as_posix() for name in (*names, *links) if not name.startswith(".")]
    return found
