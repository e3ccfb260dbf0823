"""Videos to index: the files of a folder, single files, or the media of a manifest, with their metadata."""

import csv
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from clipbert.errors import ClipBertError
from clipbert.video.media_types import IMAGE_SUFFIXES, VIDEO_SUFFIXES

Value = str | int | float | bool
VIDEO_COLUMN = "video"
MANIFEST_METADATA = ("kind", "split", "container", "codec", "width", "height", "fps", "duration_s")


@dataclass(frozen=True)
class VideoSource:
    """File to index.

    Attributes:
        video_id: its name in the index.
        path: the file.
        metadata: columns to filter by.
        sha256: of the content, where it is known.
        decoder: decord, pyav or pil, as ingest chose; "" decodes images with pil and videos with pyav.
        duration_s: seconds of video, where they are known; 0 otherwise.
    """

    video_id: str
    path: Path
    metadata: Mapping[str, Value] = field(default_factory=dict)
    sha256: str | None = None
    decoder: str = ""
    duration_s: float = 0.0

    @property
    def decoded_by(self) -> str:
        """Name of the decoder."""
        return self.decoder or ("pil" if self.path.suffix.lower() in IMAGE_SUFFIXES else "pyav")


def from_paths(paths: Iterable[Path]) -> list[VideoSource]:
    """Return the videos and images of files and folders, sorted by their names.

    The name of a file in a folder is its path below it, that of a single file its own name.

    Raises:
        ClipBertError: a path does not exist, a folder has no media, or two files have one name.
    """
    found: dict[str, VideoSource] = {}
    for given in paths:
        for name, file in _files(given):
            known = found.get(name)
            if known is not None and not os.path.samefile(known.path, file):
                raise ClipBertError(
                    f"{file}: its name in the index, {name}, is also that of {known.path}. Rename one of them, or give "
                    "a folder above both."
                )
            found[name] = VideoSource(name, file.absolute())
    return [found[name] for name in sorted(found)]


def _files(given: Path) -> list[tuple[str, Path]]:
    known = VIDEO_SUFFIXES | IMAGE_SUFFIXES
    if given.is_file():
        return [(given.name, given)]
    if not given.is_dir():
        raise ClipBertError(f"{given}: not found: expected a folder of videos, or a video file. Check the path.")
    files = [
        Path(folder, name)
        for folder, _, names in os.walk(given, followlinks=False)
        for name in names
        if Path(name).suffix.lower() in known and not name.startswith(".")
    ]
    if not files:
        raise ClipBertError(
            f"{given}: has no videos or images: expected files with one of the suffixes {', '.join(sorted(known))}."
        )
    return [(file.relative_to(given).as_posix(), file) for file in files]


def from_manifest(manifest_dir: Path, data: Path) -> list[VideoSource]:
    """Return the media of a manifest, with its columns as metadata.

    Args:
        data: the folder of the media.

    Raises:
        ClipBertError: the manifest is missing, damaged or empty.
    """
    from clipbert.data.manifest import read_video_columns

    columns = list(dict.fromkeys(["media", "sha256", "path_taken", "duration_s", *MANIFEST_METADATA]))
    rows = read_video_columns(manifest_dir, columns).to_pylist()
    if not rows:
        raise ClipBertError(f"{manifest_dir}: lists no media. Add videos to {data}, then run: clipbert ingest")
    return [
        VideoSource(
            row["media"],
            (data / row["media"]).absolute(),
            {name: row[name] for name in MANIFEST_METADATA if row[name] is not None},
            row["sha256"],
            row["path_taken"],
            row["duration_s"],
        )
        for row in rows
    ]


def with_metadata(sources: Iterable[VideoSource], table: Path) -> list[VideoSource]:
    """Return the videos with the columns of a CSV, whose column `video` has their names in the index.

    Raises:
        ClipBertError: the file cannot be read, has no such column, or names a video twice or one that is not there.
    """
    videos = list(sources)
    known = {source.video_id for source in videos}
    rows: dict[str, dict[str, Value]] = {}
    try:
        with table.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, strict=True)
            if VIDEO_COLUMN not in (reader.fieldnames or []):
                found = ", ".join(reader.fieldnames or []) or "none"
                raise ClipBertError(
                    f"{table}: its columns are {found}: expected a column {VIDEO_COLUMN} with the names of the videos."
                )
            for row in reader:
                name = row.pop(VIDEO_COLUMN)
                if None in row or None in row.values():
                    raise ClipBertError(f"{table}: line {reader.line_num} has another number of columns than line 1.")
                if name in rows:
                    raise ClipBertError(f"{table}: line {reader.line_num}: {name} is in the table twice. Remove one.")
                if name not in known:
                    example = f" such as {videos[0].video_id}" if videos else ""
                    raise ClipBertError(
                        f"{table}: line {reader.line_num}: {name} is none of the {len(videos)} videos: expected a name"
                        f"{example}."
                    )
                rows[name] = {key: typed(value) for key, value in row.items() if value != ""}
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ClipBertError(f"{table}: cannot be read ({error}). Expected a CSV in UTF-8.") from error
    return [
        VideoSource(
            each.video_id,
            each.path,
            {**each.metadata, **rows.get(each.video_id, {})},
            each.sha256,
            each.decoder,
            each.duration_s,
        )
        for each in videos
    ]


def typed(text: str) -> Value:
    """Return a number if a text is one, and the text itself otherwise."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def plain(value: Any) -> Value | None:
    """Return a metadata value as a type of JSON."""
    return value if value is None or isinstance(value, str | int | float | bool) else str(value)
