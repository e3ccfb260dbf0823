"""Folder with the media of a data set: finding files by their official names, and placing them in data/."""

import errno
import filecmp
import os
import re
import shutil
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from clipbert.errors import ClipBertError
from clipbert.video.media_types import IMAGE_SUFFIXES, VIDEO_SUFFIXES

# Suffixes in official names; ingest checks later which of these files can be used.
NAME_SUFFIXES = VIDEO_SUFFIXES | IMAGE_SUFFIXES | {".3g2"}

Aliases = Callable[[str], tuple[str, ...]]


def stem(name: str) -> str:
    """Return an official name without folder and media suffix: `train2014/x.jpg` and `x.` are both `x`."""
    base = name.replace("\\", "/").rsplit("/", 1)[-1]
    suffix = PurePosixPath(base).suffix.lower()
    return base[: -len(suffix)] if suffix in NAME_SUFFIXES else base.rstrip(".")


def media_kind(path: Path) -> str:
    """Return the folder of data/ for a file: images or videos."""
    return "images" if path.suffix.lower() in IMAGE_SUFFIXES else "videos"


@dataclass(frozen=True, slots=True)
class Found:
    """File that belongs to a name, and how it was found.

    Attributes:
        path: the file.
        others: files of the same stem in the same folder that were passed over.
        other_case: the name and the file differ in the case of letters.
    """

    path: Path
    others: int = 0
    other_case: bool = False


@dataclass(frozen=True, slots=True)
class Ambiguous:
    """Name without a folder for which several folders have a file.

    Attributes:
        paths: the files, relative to the media folder.
    """

    paths: tuple[str, ...]


class MediaFolder:
    """Files below a folder, at any depth, found by the names that annotations give them.

    - A name without a folder (`001.mp4`, `001`) matches the files of that stem, whatever their container. When files in
      several folders match and they do not have the same content, the name is ambiguous.
    - A name with a folder (`walk/001.mp4`, an absolute path) matches only files whose path ends in the same folders.
    - Of several files in one folder: the one whose whole name was asked for, else mp4, else another video, else an
      image. Letters that differ in case match when no file has the very name.
    - Symbolic links are followed inside the folder. Links that lead out of it are not used; they are in `outside`.
    - A hidden file matches a name that begins with a dot.
    """

    def __init__(self, folder: Path, aliases: Aliases = lambda name: (name,)) -> None:
        """List the folder.

        Args:
            aliases: the names that a file may have, the likeliest first, made from the name in the annotations.

        Raises:
            ClipBertError: there is no such folder, it cannot be read, or it holds no file.
        """
        if not folder.is_dir():
            raise ClipBertError(f"{folder}: no such folder; expected the one with the media, at any depth.")
        self.folder = folder
        self.outside: list[str] = []
        self._root = folder.resolve()
        self._aliases = aliases
        self._files: dict[str, list[Path]] = {}
        self._without_zeros: dict[str, str] | None = None
        visited: set[tuple[int, int]] = set()
        for place, subfolders, names in os.walk(folder, onerror=_refuse, followlinks=True):
            status = os.stat(place)
            if (status.st_dev, status.st_ino) in visited:
                subfolders.clear()
                continue
            visited.add((status.st_dev, status.st_ino))
            subfolders[:] = sorted(
                name for name in subfolders if not name.startswith(".") and self._inside(Path(place, name))
            )
            for name in names:
                if self._inside(Path(place, name)):
                    self._files.setdefault(_key(stem(name)), []).append(Path(place, name))
        if not self._files and not self.outside:
            raise ClipBertError(f"{folder}: an empty folder; expected the media in it, at any depth.")

    def find(self, name: str) -> Found | Ambiguous | None:
        """Return the file of a name in the annotations, the candidates of an ambiguous name, or None."""
        exact = self._exact(name)
        if exact is not None:
            return Found(exact)
        for alias in self._aliases(name):
            group = self._files.get(_key(stem(alias)))
            if group and (found := self._choose(alias, group)):
                return found
        return None

    def similar(self, name: str) -> str | None:
        """Return a file whose name differs from `name` in leading zeros alone (`00012.mp4` for `12`)."""
        if self._without_zeros is None:
            pairs = ((_without_zeros(key), paths[0].name) for key, paths in self._files.items())
            self._without_zeros = {key: name for key, name in pairs if any(map(str.isdigit, key))}
        found = self._without_zeros.get(_without_zeros(_key(stem(name))))
        return found if found is not None and _key(stem(found)) != _key(stem(name)) else None

    def elsewhere(self, name: str) -> str | None:
        """Return a file of the same stem in another folder than `name` says, as a path below the media folder."""
        paths = self._files.get(_key(stem(name)))
        return paths[0].relative_to(self.folder).as_posix() if paths else None

    def place(self, source: Path, target: Path) -> bool:
        """Hard-link a file of this folder to `target`, or copy it; return whether it was copied.

        Raises:
            ClipBertError: see `place_file`; or the file is a link that now leads out of the folder.
        """
        return place_file(source, target, self._root)

    def _inside(self, path: Path) -> bool:
        """Return whether a path stays in the folder; one that leads out is recorded in `outside`."""
        if not path.is_symlink() or path.resolve().is_relative_to(self._root):
            return True
        self.outside.append(path.relative_to(self.folder).as_posix())
        return False

    def _exact(self, name: str) -> Path | None:
        """Return the file at the path `name` below the folder."""
        relative = PurePosixPath(name)
        if relative.is_absolute() or ".." in relative.parts or "\0" in name:
            return None
        path = self.folder / relative
        try:
            return path if path.is_file() and path.resolve().is_relative_to(self._root) else None
        except OSError:  # the name is too long for a file
            return None

    def _choose(self, alias: str, group: list[Path]) -> Found | Ambiguous | None:
        folders, base = _split_path(alias)
        present = [path for path in group if path.is_file()]
        if folders:
            in_case = [path for path in present if self._ends_in(path, folders, str)]
            present = in_case or [path for path in present if self._ends_in(path, folders, _key)]
        exact = [path for path in present if path.name == base]
        same_case = [path for path in present if _normal(stem(path.name)) == _normal(stem(base))]
        candidates = exact or same_case or present
        if not candidates:
            return None
        best = min(candidates, key=_rank)
        elsewhere = [path for path in candidates if path.parent != best.parent]
        if not all(_same_content(best, path) for path in elsewhere):
            paths = sorted(path.relative_to(self.folder).as_posix() for path in candidates)
            return Ambiguous(tuple(paths))
        return Found(best, others=len(candidates) - 1, other_case=not same_case)

    def _ends_in(self, path: Path, folders: Sequence[str], normal: Callable[[str], str]) -> bool:
        """Return whether the folders of a path end in `folders`."""
        inner = path.parent.relative_to(self.folder).parts
        roots = (Path(os.path.abspath(self.folder)).parts[1:], self._root.parts[1:])
        wanted = [normal(_normal(part)) for part in folders]
        return any([normal(_normal(part)) for part in (*root, *inner)][-len(wanted) :] == wanted for root in roots)


def place_file(source: Path, target: Path, root: Path | None = None) -> bool:
    """Hard-link a file to `target`, or copy it where the file system has no links; return whether it was copied.

    Args:
        root: a resolved folder that the file must lie in.

    Raises:
        ClipBertError: the file has gone, cannot be read, or leads out of `root`.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        real = source.resolve(strict=True)
        if root is not None and not real.is_relative_to(root):
            raise ClipBertError(f"{source}: is a link that leads out of {root}; copy the file there instead.")
        try:
            os.link(real, target)
        except OSError as error:
            if error.errno not in (errno.EXDEV, errno.EPERM, errno.EACCES, errno.EMLINK, errno.ENOTSUP):
                raise
            shutil.copyfile(real, target)
            return True
    except FileNotFoundError:
        raise ClipBertError(f"{source}: disappeared, or is a broken link. Rerun the import.") from None
    except PermissionError as error:
        raise ClipBertError(f"{source}: cannot be read ({error.strerror}).") from error
    return False


def _split_path(name: str) -> tuple[list[str], str]:
    """Return ([folders], file name) of a path with slashes or backslashes."""
    *folders, base = name.replace("\\", "/").split("/")
    return [part for part in folders if part not in ("", ".")], base


def _same_content(one: Path, other: Path) -> bool:
    try:
        return one.samefile(other) or (one.stat().st_size == other.stat().st_size and filecmp.cmp(one, other, False))
    except OSError:
        return False


def _without_zeros(key: str) -> str:
    return re.sub(r"\d+", lambda digits: digits[0].lstrip("0") or "0", key)


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
