"""`index.json`: what an index consists of. It is replaced atomically, and what it does not name does not count."""

import shutil
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from clipbert.errors import ClipBertError
from clipbert.files.signed_json import read_signed_json, write_signed_json

INDEX_FILE, SEGMENTS, LOCK = "index.json", "segments", ".write.lock"
FORMAT = 1
REMEDY = "Remove the folder and make the index again: clipbert index build"


@dataclass(frozen=True)
class Settings:
    """What determines the vectors of an index.

    Attributes:
        model: SHA-256 over the files of the model.
        clips, frames_per_clip: frames of a clip of the index that the model sees.
        frames: `fps`, `size`, `max_frames` and `sampling` of the candidate frames.
        clip_s: longest clip of the index in seconds.
        tokens: whether the visual tokens are stored.
        dimension: of the vectors.
    """

    model: str
    clips: int
    frames_per_clip: int
    frames: dict[str, Any]
    clip_s: float
    tokens: bool
    dimension: int


@dataclass(frozen=True)
class SegmentRecord:
    """Immutable part of an index.

    Attributes:
        name: of its folder.
        videos, clips: that it has, with the deleted ones.
        files: {name: SHA-256}.
        sizes: {name: bytes}.
        deleted: positions of videos that do not count any more, ascending.
    """

    name: str
    videos: int
    clips: int
    files: dict[str, str]
    sizes: dict[str, int]
    deleted: list[int] = field(default_factory=list)


@dataclass(frozen=True)
class Failure:
    """File that could not be indexed.

    Attributes:
        video_id, path: as in `VideoSource`.
        reason: why, for a reader.
        stamp: size and time of the file then; it is tried again once they differ.
    """

    video_id: str
    path: str
    reason: str
    stamp: list[int]


@dataclass(frozen=True)
class IndexState:
    """Content of `index.json`.

    Attributes:
        model_name: what to call the model.
        written: segments that were written so far, which numbers the next one.
    """

    settings: Settings
    model_name: str
    segments: tuple[SegmentRecord, ...] = ()
    failures: tuple[Failure, ...] = ()
    written: int = 0

    def with_segments(self, *segments: SegmentRecord) -> "IndexState":
        """Return the state with more segments."""
        return replace(self, segments=(*self.segments, *segments), written=self.written + len(segments))


def read_state(folder: Path) -> IndexState:
    """Read the state of an index.

    Raises:
        ClipBertError: the index is missing, damaged or of another version.
    """
    path = folder / INDEX_FILE
    if not path.is_file():
        raise ClipBertError(f"{folder}: no search index here ({INDEX_FILE} is missing). Make one: clipbert index build")
    found = read_signed_json(path, REMEDY, "the state of a search index")
    if found.get("format") != FORMAT:
        raise ClipBertError(f"{path}: its format is {found.get('format')!r}: expected {FORMAT}. {REMEDY}")
    try:
        return IndexState(
            Settings(**found["settings"]),
            found["model_name"],
            tuple(SegmentRecord(**each) for each in found["segments"]),
            tuple(Failure(**each) for each in found["failures"]),
            found["written"],
        )
    except (KeyError, TypeError) as error:
        raise ClipBertError(f"{path}: has wrong fields ({error}). {REMEDY}") from error


def write_state(folder: Path, state: IndexState) -> None:
    """Replace the state of an index atomically.

    Raises:
        ClipBertError: the disk is full or the folder cannot be written.
    """
    write_signed_json(folder / INDEX_FILE, {"format": FORMAT, **asdict(state)})


def remove_unused(folder: Path, state: IndexState) -> None:
    """Remove segments that the state does not name: those of a killed process, and merged ones."""
    used = {segment.name for segment in state.segments}
    place = folder / SEGMENTS
    if place.is_dir():
        for path in place.iterdir():
            if path.is_dir() and path.name not in used and not path.name.startswith("."):
                shutil.rmtree(path, ignore_errors=True)
