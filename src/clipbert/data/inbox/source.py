"""Where new files arrive: a local folder, from which they are moved, or an fsspec address, where they stay."""

import hashlib
import os
import re
import shutil
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

from clipbert.data.annotations import FILES, AnnotationFile
from clipbert.data.ingest.select import readable_name
from clipbert.errors import ClipBertError
from clipbert.files.remote import below, filesystem, is_url, remote_errors
from clipbert.video.media_types import IMAGE_SUFFIXES, VIDEO_SUFFIXES

MARKER = ".uploading"  # NAME.uploading: that file is incomplete; a file `.uploading`: its folder is
UNFINISHED_SUFFIXES = (".part", ".partial", ".filepart", ".crdownload", ".download", ".tmp", ".temp", ".swp", "~")
_ANNOTATIONS = re.compile(r"^(?P<stem>captions|open_qa|multiple_choice)([-_.][^/]*)?\.jsonl$")
BLOCK = 1 << 20


class ChangedError(Exception):
    """A file changed or disappeared while it was copied."""


@dataclass(frozen=True)
class Arrival:
    """File in the inbox.

    Attributes:
        name: path below the inbox.
        stamp: differs if the file was changed.
        changed: time of the last change in seconds since 1970; None: unknown, and files appear there complete.
    """

    name: str
    stamp: str
    changed: float | None

    @property
    def annotations(self) -> AnnotationFile | None:
        """The format of an annotation file, by its name; None for other files."""
        found = _ANNOTATIONS.match(self.name)
        return None if found is None else next(file for file in FILES if file.name == f"{found['stem']}.jsonl")

    @property
    def is_media(self) -> bool:
        """Whether the suffix is that of a video or an image."""
        return PurePosixPath(self.name).suffix.lower() in VIDEO_SUFFIXES | IMAGE_SUFFIXES


class Source(Protocol):
    """What the two kinds of inboxes have in common."""

    name: str
    moves: bool

    def arrivals(self) -> list[Arrival]:
        """Return all files, sorted by name."""

    def copy(self, arrival: Arrival, target: Path) -> str:
        """Copy a file and return the SHA-256 of the copy; raise ChangedError if the file has changed."""

    def remove(self, arrival: Arrival) -> None:
        """Remove a file that is still the same; does nothing where files stay."""


def open_source(source: str, root: Path) -> Source:
    """Return the inbox at a folder, which may be relative to the project at `root`, or at an address.

    Raises:
        ClipBertError: the folder does not exist, or the address has an unknown protocol.
    """
    return RemoteSource(source) if is_url(source) else FolderSource(root / source, source)


class FolderSource:
    """Local folder, from which merged and refused files are moved."""

    moves = True

    def __init__(self, folder: Path, name: str) -> None:
        if not folder.is_dir():
            raise ClipBertError(
                f"inbox.source = {name}: {folder} is not a folder. Create it and put new media and annotation files "
                "there, or set inbox.source in params.yaml."
            )
        self.folder, self.name = folder, name

    def arrivals(self) -> list[Arrival]:
        """Return all regular files; links are left out, because they may lead anywhere."""
        return sorted(self._walk(self.folder), key=lambda arrival: arrival.name)

    def _walk(self, folder: Path) -> Iterator[Arrival]:
        try:
            entries = list(os.scandir(folder))
        except OSError as error:
            raise ClipBertError(f"{folder}: cannot be read ({error.strerror}). Give it read permission.") from error
        for entry in entries:
            path = Path(entry.path)
            if entry.is_dir(follow_symlinks=False):
                yield from self._walk(path)
                continue
            try:
                status = entry.stat(follow_symlinks=False)
            except FileNotFoundError:
                continue
            if stat.S_ISREG(status.st_mode):
                changed = max(status.st_mtime, status.st_ctime)  # tools that unpack set the first one
                yield Arrival(path.relative_to(self.folder).as_posix(), _stamp(status), changed)

    def copy(self, arrival: Arrival, target: Path) -> str:
        path = self.folder / arrival.name
        digest = hashlib.sha256()
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            with (
                open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC), "rb") as file,
                target.open("wb") as out,
            ):
                while block := file.read(BLOCK):
                    digest.update(block)
                    out.write(block)
                out.flush()
                os.fsync(out.fileno())
                same = _stamp(os.fstat(file.fileno())) == arrival.stamp
        except FileNotFoundError:
            raise ChangedError from None
        except PermissionError as error:
            raise ClipBertError(f"{path}: cannot be read ({error.strerror}). Give it read permission.") from error
        if not same:
            target.unlink()
            raise ChangedError
        return digest.hexdigest()

    def remove(self, arrival: Arrival) -> None:
        path = self.folder / arrival.name
        try:
            if _stamp(path.lstat()) == arrival.stamp:
                path.unlink()
        except FileNotFoundError:
            return
        except PermissionError as error:
            raise ClipBertError(
                f"{path}: was merged or refused and cannot be removed ({error.strerror}). Give {path.parent} write "
                f"permission, or set inbox.source to file://{self.folder.resolve()}: files of an address stay there."
            ) from error


class RemoteSource:
    """Address that fsspec reads, such as s3://bucket/new. Nothing is written there."""

    moves = False

    def __init__(self, url: str) -> None:
        self.name = url
        self._system, path = filesystem(url)
        self._base = path.rstrip("/")

    def arrivals(self) -> list[Arrival]:
        with remote_errors(self.name):
            self._system.invalidate_cache()
            found = self._system.find(self._base, detail=True)
            prefix = f"{self._base}/"
            names = {str(path).removeprefix(prefix): facts for path, facts in found.items()}
        return [Arrival(name, *_facts(facts)) for name, facts in sorted(names.items()) if name]

    def copy(self, arrival: Arrival, target: Path) -> str:
        url = below(self.name, arrival.name)
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            with remote_errors(url):
                self._system.invalidate_cache()
                path = f"{self._base}/{arrival.name}"
                self._system.get_file(path, str(target))
                same = _facts(self._system.info(path))[0] == arrival.stamp
        except ClipBertError as error:
            if isinstance(error.__cause__, FileNotFoundError):
                raise ChangedError from None
            raise
        if not same:
            target.unlink()
            raise ChangedError
        with target.open("rb") as file:
            os.fsync(file.fileno())
            return hashlib.file_digest(file, "sha256").hexdigest()

    def remove(self, arrival: Arrival) -> None:
        """Do nothing: others may read the files, and the credentials may not allow it."""


def unfinished(arrivals: list[Arrival]) -> dict[str, str]:
    """Return the names of files that are marked as incomplete, and how; markers themselves are among them."""
    names = {arrival.name for arrival in arrivals}
    folders = {str(PurePosixPath(name).parent) for name in names if PurePosixPath(name).name == MARKER}
    found = {}
    for name in names:
        path = PurePosixPath(name)
        marked = next((str(parent) for parent in path.parents if str(parent) in folders), None)
        if marked is not None:
            found[name] = f"{MARKER} in its folder" if marked == "." else f"{marked}/{MARKER} exists"
        elif f"{name}{MARKER}" in names:
            found[name] = f"{name}{MARKER} exists"
        elif name.endswith(MARKER):
            found[name] = "a marker"
        elif any(part.startswith(".") for part in path.parts) or name.lower().endswith(UNFINISHED_SUFFIXES):
            found[name] = "a temporary name"
    return found


def unusable(arrival: Arrival) -> str | None:
    """Return why a file is neither media nor annotations; None if it is one of them."""
    if readable_name(arrival.name) != arrival.name:
        return "its name is not UTF-8 or holds a control character"
    if arrival.is_media or arrival.annotations is not None:
        return None
    if arrival.name.endswith((".jsonl", ".json", ".csv", ".tsv")):
        names = ", ".join(file.name for file in FILES)
        return f"not an annotation file: expected {names} (or captions-NAME.jsonl, ...) at the top of the inbox"
    return "neither a video, an image nor an annotation file"


def copy_within(source: Path, target: Path) -> None:
    """Give a staged file the name `target`, which must not exist, durably; an error leaves no part of it.

    Raises:
        FileExistsError: there is such a file.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except FileExistsError:
        raise
    except OSError:  # another file system, or one without hard links
        from clipbert.files.atomic import atomic_write

        if os.path.lexists(target):
            raise FileExistsError(target) from None
        with source.open("rb") as file, atomic_write(target) as out:
            shutil.copyfileobj(file, out, BLOCK)


def _stamp(status: os.stat_result) -> str:
    return f"{status.st_size} {status.st_mtime_ns} {status.st_ino}"


def _facts(facts: dict[str, Any]) -> tuple[str, float | None]:
    """Return the stamp and the time of the last change from what a file system says about a file."""
    version = next((facts[key] for key in ("ETag", "etag", "md5Hash", "content_md5") if facts.get(key)), "")
    for key in ("LastModified", "last_modified", "mtime", "modified", "updated", "timeModified"):
        if (value := facts.get(key)) is not None:
            break
    else:
        value = None
    changed: float | None = None
    if isinstance(value, datetime):
        changed = value.timestamp()
    elif isinstance(value, int | float):
        changed = float(value)
    elif isinstance(value, str):
        try:
            changed = datetime.fromisoformat(value).timestamp()
        except ValueError:
            changed = None
    return f"{facts.get('size')} {value} {version}", changed
