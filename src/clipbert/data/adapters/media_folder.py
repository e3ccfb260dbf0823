"""The folder a user keeps the media of a data set in: finding a file by its official name, and placing it."""

import errno
import os
import shutil
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from clipbert.data.media_types import IMAGE_SUFFIXES, VIDEO_SUFFIXES
from clipbert.errors import ClipBertError

# Suffixes that official names carry; ingest decides later which of them can be used.
NAME_SUFFIXES = VIDEO_SUFFIXES | IMAGE_SUFFIXES | {".3g2"}

Aliases = Callable[[str], tuple[str, ...]]


def stem(name: str) -> str:
    """An official name without its folder and media suffix: `train2014/x.jpg` and `x.` are both `x`."""
    base = name.replace("\\", "/").rsplit("/", 1)[-1]
    suffix = PurePosixPath(base).suffix.lower()
    return base[: -len(suffix)] if suffix in NAME_SUFFIXES else base.rstrip(".")


def media_kind(path: Path) -> str:
    """The folder of data/ it belongs in: images or videos."""
    return "images" if path.suffix.lower() in IMAGE_SUFFIXES else "videos"


@dataclass(frozen=True, slots=True)
class Found:
    """A file, and what a person should know of how it was found."""

    path: Path
    others: int = 0  # files of the same stem that were passed over
    other_case: bool = False


class MediaFolder:
    """Every file below a folder, at any depth, links followed, found by stem whatever its container.

    Where several files have the stem: the one whose whole name was asked for, else mp4, else another video, else an
    image, else the first by path. Names that differ in case alone match when no file has the very name.
    """

    def __init__(self, folder: Path, aliases: Aliases = lambda name: (name,)) -> None:
        """List the folder.

        Args:
            aliases: the names a file may go by, the likeliest first, made from the name in the annotations.

        Raises:
            ClipBertError: there is no such folder, it cannot be read, or no file is in it.
        """
        if not folder.is_dir():
            raise ClipBertError(f"{folder}: no such folder; expected the one with the media, at any depth.")
        self.folder = folder
        self._aliases = aliases
        self._files: dict[str, list[Path]] = {}
        visited: set[tuple[int, int]] = set()
        for place, subfolders, names in os.walk(folder, onerror=_refuse, followlinks=True):
            status = os.stat(place)
            if (status.st_dev, status.st_ino) in visited:
                subfolders.clear()
                continue
            visited.add((status.st_dev, status.st_ino))
            subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
            for name in names:
                if not name.startswith("."):
                    self._files.setdefault(_key(stem(name)), []).append(Path(place, name))
        if not self._files:
            raise ClipBertError(f"{folder}: an empty folder; expected the media in it, at any depth.")

    def find(self, name: str) -> Found | None:
        """The file of a name in the annotations, or None."""
        for alias in self._aliases(name):
            group = self._files.get(_key(stem(alias)))
            if group and (found := _choose(alias, group)):
                return found
        return None

    def find_path(self, name: str) -> Found | None:
        """Like `find`, but a path below the folder with its suffix means that very file."""
        exact = self.folder / name
        if not Path(name).is_absolute() and ".." not in Path(name).parts and exact.is_file():
            return Found(exact)
        return self.find(name)


def place_file(source: Path, target: Path) -> bool:
    """Hard-link, or copy where the file system will not have it; whether it was copied.

    Raises:
        ClipBertError: the file has gone, or is not one that can be read.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        real = source.resolve(strict=True)
        try:
            os.link(real, target)
        except OSError as error:
            if error.errno not in (errno.EXDEV, errno.EPERM, errno.EACCES, errno.EMLINK, errno.ENOTSUP):
                raise
            shutil.copyfile(real, target)
            return True
    except FileNotFoundError:
        raise ClipBertError(f"{source}: has gone, or is a link to nothing. Run the import again.") from None
    except PermissionError as error:
        raise ClipBertError(f"{source}: cannot be read ({error.strerror}).") from error
    return False


def _choose(alias: str, group: list[Path]) -> Found | None:
    base = alias.replace("\\", "/").rsplit("/", 1)[-1]
    present = [path for path in group if path.is_file()]
    exact = [path for path in present if path.name == base]
    same_case = [path for path in present if _normal(stem(path.name)) == _normal(stem(base))]
    candidates = exact or same_case or present
    if not candidates:
        return None
    best = min(candidates, key=_rank)
    return Found(best, others=len(candidates) - 1, other_case=not same_case)


def _rank(path: Path) -> tuple[int, str]:
    suffix = path.suffix.lower()
    kinds = ({".mp4"}, VIDEO_SUFFIXES, IMAGE_SUFFIXES)
    return next((rank for rank, kind in enumerate(kinds) if suffix in kind), len(kinds)), path.as_posix()


def _normal(name: str) -> str:
    return unicodedata.normalize("NFC", name)


def _key(name: str) -> str:
    return _normal(name).casefold()


def _refuse(error: OSError) -> None:
    raise ClipBertError(f"{error.filename}: cannot be read ({error.strerror}).") from error
