"""Changes of an index: one writer at a time adds segments, marks videos as deleted and merges small segments."""

import contextlib
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from clipbert.errors import ClipBertError
from clipbert.files.atomic import write_errors
from clipbert.files.leftovers import remove_stale_temporaries
from clipbert.files.locks import Timeout, file_lock
from clipbert.search.index_file import (
    INDEX_FILE,
    LOCK,
    SEGMENTS,
    Failure,
    IndexState,
    Settings,
    read_state,
    remove_unused,
    write_state,
)
from clipbert.search.merge import merge_segments, mergeable
from clipbert.search.segment import VIDEOS_FILE, IndexedVideo, write_segment
from clipbert.search.sources import VideoSource

COMMIT_CLIPS, COMMIT_S = 4096, 30.0
SHOWN = 12  # characters of a digest in a message


@dataclass(frozen=True)
class Place:
    """Where a video is in an index, and what is known of its file."""

    segment: str
    number: int
    sha256: str
    stamp: tuple[int, int]
    metadata: dict[str, Any]


class IndexWriter:
    """Writer of an index; what it committed stays whatever happens later.

    Attributes:
        state: as it is on the disk.
        places: {video_id: Place} of the videos that count.
    """

    def __init__(self, folder: Path, state: IndexState) -> None:
        self.folder, self.state = folder, state
        self.places = _places(folder, state)
        self._pending: list[IndexedVideo] = []
        self._clips, self._since = 0, time.monotonic()

    def add(self, video: IndexedVideo) -> None:
        """Add a video, or replace the one of this name; it is committed with others, or by `commit`.

        Raises:
            ClipBertError: the disk is full or the folder cannot be written.
        """
        if not self._pending:
            self._since = time.monotonic()
        self._pending.append(video)
        self._clips += len(video.vectors)
        if self._clips >= COMMIT_CLIPS or time.monotonic() - self._since >= COMMIT_S:
            self.commit()

    def commit(self) -> None:
        """Write the added videos as a segment, name it in the index, and merge segments where they are many.

        Raises:
            ClipBertError: the disk is full or the folder cannot be written.
        """
        if self._pending:
            number = self.state.written
            record = write_segment(self.folder, number, self._pending)
            replaced = [video.video_id for video in self._pending if video.video_id in self.places]
            state = self.without(replaced).with_segments(record)
            names = {video.video_id for video in self._pending}
            state = replace(state, failures=tuple(each for each in state.failures if each.video_id not in names))
            self._write(state)
            for position, video in enumerate(self._pending):
                self.places[video.video_id] = Place(
                    record.name, position, video.sha256, video.stamp, dict(video.metadata)
                )
        self._pending, self._clips = [], 0
        while chosen := mergeable(self.state.segments):
            self._merge(chosen)

    def fail(self, failures: Iterable[Failure]) -> None:
        """Record files that cannot be indexed."""
        new = {each.video_id: each for each in failures}
        kept = [each for each in self.state.failures if each.video_id not in new]
        self._write(replace(self.state, failures=tuple(sorted([*kept, *new.values()], key=lambda f: f.video_id))))

    def remove(self, names: Iterable[str]) -> None:
        """Remove videos and records of failures by their names."""
        gone = set(names)
        state = self.without([name for name in gone if name in self.places])
        self._write(replace(state, failures=tuple(each for each in state.failures if each.video_id not in gone)))
        for name in gone:
            self.places.pop(name, None)
        while chosen := mergeable(self.state.segments):
            self._merge(chosen)

    def adopt(self, state: IndexState) -> None:
        """Write a state whose segments are there already."""
        self._write(state)
        self.places = _places(self.folder, state)
        while chosen := mergeable(self.state.segments):
            self._merge(chosen)

    def without(self, names: Iterable[str]) -> IndexState:
        """Return the state in which videos do not count any more."""
        gone: dict[str, set[int]] = {}
        for name in names:
            place = self.places[name]
            gone.setdefault(place.segment, set()).add(place.number)
        return replace(
            self.state,
            segments=tuple(
                replace(each, deleted=sorted({*each.deleted, *gone[each.name]})) if each.name in gone else each
                for each in self.state.segments
            ),
        )

    def _merge(self, names: list[str]) -> None:
        """Replace segments by one without their deleted videos."""
        chosen = [each for each in self.state.segments if each.name in names]
        merged = merge_segments(self.folder, self.state.written, chosen)
        kept = [each for each in self.state.segments if each.name not in names]
        segments = (*kept, *([] if merged is None else [merged]))
        self._write(replace(self.state, segments=segments, written=self.state.written + 1))
        self.places = _places(self.folder, self.state)
        remove_unused(self.folder, self.state)

    def _write(self, state: IndexState) -> None:
        if state != self.state:
            write_state(self.folder, state)
            self.state = state


def _places(folder: Path, state: IndexState) -> dict[str, Place]:
    """Return where each video is.

    Raises:
        ClipBertError: a table cannot be read.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    from clipbert.search.index_file import REMEDY
    from clipbert.search.segment import metadata_of

    found: dict[str, Place] = {}
    for segment in state.segments:
        path = folder / SEGMENTS / segment.name / VIDEOS_FILE
        try:
            rows = pq.read_table(path).to_pylist()
        except (OSError, pa.ArrowInvalid) as error:
            raise ClipBertError(f"{path}: damaged or missing ({type(error).__name__}). {REMEDY}") from error
        deleted = set(segment.deleted)
        for number, row in enumerate(rows):
            if number not in deleted:
                stamp = (row["bytes"], row["changed_ns"])
                place = Place(segment.name, number, row["sha256"], stamp, metadata_of(row))
                found[row["video_id"]] = place
    return found


@contextlib.contextmanager
def open_writer(folder: Path, settings: Settings | None, model_name: str = "") -> Iterator[IndexWriter]:
    """Yield the writer of an index, which no other process writes meanwhile.

    Args:
        settings: of the vectors to add; an index that does not exist yet is made with them. None: nothing is added.
        model_name: of the model, for messages.

    Raises:
        ClipBertError: another process writes the index, it does not exist, is damaged or has other settings, or the
            disk is full.
    """
    if settings is None:
        read_state(folder)
    with write_lock(folder):
        if settings is not None and not (folder / INDEX_FILE).is_file():
            write_state(folder, IndexState(settings, model_name))
        state = read_state(folder)
        if settings is not None:
            check_settings(folder, state, settings, model_name)
        remove_stale_temporaries([folder, folder / SEGMENTS])
        remove_unused(folder, state)
        yield IndexWriter(folder, state)


@contextlib.contextmanager
def write_lock(folder: Path) -> Iterator[None]:
    """Hold the lock of the writer of an index; its folder is made if it does not exist.

    Raises:
        ClipBertError: another process holds it, or the folder cannot be written.
    """
    with contextlib.ExitStack() as held:
        with write_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
            try:
                held.enter_context(file_lock(folder / LOCK, on_unsupported=lambda _: None))
            except Timeout:
                raise ClipBertError(
                    f"{folder}: another process writes this index. Wait until it has finished, or stop it. Searches "
                    "are not affected."
                ) from None
        yield


def check_settings(folder: Path, state: IndexState, settings: Settings, model_name: str) -> None:
    """Check that vectors of some settings belong into an index.

    Raises:
        ClipBertError: naming the model or the settings that differ.
    """
    held = state.settings
    if held.model != settings.model:
        raise ClipBertError(other_model(folder, state, settings.model, model_name))
    differing = [
        f"{name} {getattr(held, name)!r}, not {getattr(settings, name)!r}"
        for name in vars(settings)
        if getattr(held, name) != getattr(settings, name)
    ]
    if differing:
        raise ClipBertError(
            f"{folder}: was made with {'; '.join(differing)}. Use the same settings, or make the index again with the "
            "new ones: clipbert index build --replace"
        )


def other_model(folder: Path, state: IndexState, model: str, model_name: str) -> str:
    """Return the message about an index of another model."""
    return (
        f"{folder}: was made with another model ({state.model_name}, {state.settings.model[:SHOWN]}) than this one "
        f"({model_name}, {model[:SHOWN]}), and their vectors cannot be compared. Give that model with --model, or make "
        "the index again with this one: clipbert index build --replace"
    )


def stamp_of(path: Path) -> tuple[int, int]:
    """Return the size in bytes and the time of the last change in ns of a file; (0, 0) if there is none."""
    try:
        found = path.stat()
    except OSError:
        return 0, 0
    return found.st_size, found.st_mtime_ns


def stored_path(folder: Path, path: Path) -> str:
    """Return the path of a video as an index in `folder` stores it: relative inside a project, which can be moved."""
    if folder.absolute().parent.name == "artifacts":
        root = folder.absolute().parent.parent
        if path.absolute().is_relative_to(root):
            return os.path.relpath(path.absolute(), folder.absolute())
    return str(path.absolute())


def unchanged(source: VideoSource, stamp: tuple[int, int], known: Mapping[str, Place]) -> bool:
    """Return whether the index has this content of a video; a file is read only if its size or time has changed."""
    from clipbert.files.atomic import sha256_file

    place = known.get(source.video_id)
    if place is None:
        return False
    if source.sha256 is not None:
        return place.sha256 == source.sha256
    if place.stamp == stamp:
        return True
    try:
        return sha256_file(source.path) == place.sha256
    except OSError:
        return False
