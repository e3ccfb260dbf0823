"""Building of an index: videos are added, replaced and removed in place, and a killed build continues where it was."""

import contextlib
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from clipbert.console import progress
from clipbert.errors import ClipBertError
from clipbert.files.atomic import atomic_directory, fsync_directory
from clipbert.files.exchange import exchange
from clipbert.frame_cache import FrameCache
from clipbert.search.encode import CLIP_S, EncodedVideo, settings_of
from clipbert.search.executors import Executor, LocalExecutor
from clipbert.search.index_file import SEGMENTS, Failure, SegmentRecord, read_state
from clipbert.search.segment import VIDEOS_FILE, IndexedVideo, Segment, record_of, segment_name, write_rows
from clipbert.search.sources import VideoSource, plain
from clipbert.search.writer import IndexWriter, open_writer, other_model, stamp_of, stored_path, unchanged, write_lock

NEW = ".new"


@dataclass(frozen=True)
class BuildResult:
    """What a change of an index did.

    Attributes:
        added: videos that are new or have changed.
        kept: videos that were there already.
        removed: videos that are not among the sources any more.
        failures: files that could not be indexed, those of earlier runs included.
    """

    added: int
    kept: int
    removed: int
    failures: tuple[Failure, ...]


def build_index(
    folder: Path,
    pipeline: Any,
    videos: Sequence[VideoSource],
    *,
    clip_s: float = CLIP_S,
    tokens: bool = True,
    frame_cache: FrameCache | None = None,
    executor: Executor | None = None,
    workers: int | None = None,
    model_name: str = "",
    replace_index: bool = False,
    title: str | None = "index",
) -> BuildResult:
    """Make or update the index in a folder so that it has exactly these videos.

    Args:
        pipeline: of a retrieval model with a dual encoder.
        clip_s: longest clip in seconds; a longer video has several.
        tokens: store the visual tokens of the clips, so that a search decodes no file.
        frame_cache: whose frames are used instead of decoding the files, where they are the same ones.
        executor: makes the vectors; None: this machine.
        workers: decoder processes; None: one per core.
        model_name: what to call the model in messages; its folder by default.
        replace_index: make the index of another model or with other settings, while the old one can be searched.
        title: of the progress; None shows none.

    Raises:
        ClipBertError: no videos, none of them can be decoded, the index is of another model, another process writes it,
            or the disk is full.
    """
    if not videos:
        raise ClipBertError(f"{folder}: no videos to index: expected at least one.")
    name = model_name or str(pipeline.folder)
    settings = settings_of(pipeline, clip_s, tokens)
    place = folder
    if replace_index and (folder / SEGMENTS).exists() and not _has(folder, settings):
        place = folder.with_name(folder.name + NEW)
        if place.exists() and not _has(place, settings):
            shutil.rmtree(place)
    with contextlib.ExitStack() as held:
        if place != folder:
            held.enter_context(write_lock(folder))
        with open_writer(place, settings, name) as writer:
            run = executor or LocalExecutor(pipeline, settings, frame_cache, workers)
            result = _update(writer, run, videos, title, final=folder)
            wanted = {source.video_id for source in videos}
            gone = [video_id for video_id in writer.places if video_id not in wanted]
            stale = [each.video_id for each in writer.state.failures if each.video_id not in wanted]
            if gone or stale:
                writer.remove([*gone, *stale])
            result = replace(result, removed=len(gone), failures=writer.state.failures)
        if place != folder:
            _take_place(place, folder)
    return result


def add_videos(
    folder: Path,
    pipeline: Any,
    videos: Sequence[VideoSource],
    *,
    frame_cache: FrameCache | None = None,
    executor: Executor | None = None,
    workers: int | None = None,
    model_name: str = "",
    title: str | None = "index",
) -> BuildResult:
    """Add videos to an index, or replace those of the same name, without a change of its other videos.

    Args:
        as those of `build_index`.

    Raises:
        ClipBertError: as `build_index`, or the index is missing.
    """
    if not videos:
        raise ClipBertError(f"{folder}: no videos to add: expected at least one.")
    held = read_state(folder).settings
    settings = settings_of(pipeline, held.clip_s, held.tokens)
    with open_writer(folder, settings, model_name or str(pipeline.folder)) as writer:
        run = executor or LocalExecutor(pipeline, settings, frame_cache, workers)
        return _update(writer, run, videos, title, final=folder)


def remove_videos(folder: Path, names: Iterable[str]) -> int:
    """Remove videos from an index by their names or folders of names, and return how many.

    Raises:
        ClipBertError: the index is missing, or does not contain the video.
    """
    with open_writer(folder, None) as writer:
        gone: set[str] = set()
        known = {*writer.places, *(each.video_id for each in writer.state.failures)}
        for name in names:
            found = {each for each in known if each == name or each.startswith(f"{name.rstrip('/')}/")}
            if not found:
                example = next(iter(sorted(writer.places)), None)
                raise ClipBertError(
                    f"{name}: not in the index {folder}, which has {len(writer.places)} videos"
                    f"{f' such as {example}' if example else ''}. `clipbert index info --videos` lists them."
                )
            gone |= found
        count = len([name for name in gone if name in writer.places])
        writer.remove(gone)
        return count


def merge_indexes(folder: Path, others: Sequence[Path]) -> int:
    """Add the segments of other indexes of the same model to an index, and return the number of their videos.

    Of videos with one name, the last index counts. An index that does not exist yet is made.

    Raises:
        ClipBertError: an index is missing, damaged or has other settings, or another process writes this one.
    """
    if not others:
        raise ClipBertError("no index to merge: expected the folder of at least one.")
    for other in others:
        if other.resolve() == folder.resolve():
            raise ClipBertError(f"{other}: cannot be merged into itself: expected the folder of another index.")
    first = read_state(others[0])
    count = 0
    with open_writer(folder, first.settings, first.model_name) as writer:
        for other in others:
            state = read_state(other)
            if state.settings.model != writer.state.settings.model:
                raise ClipBertError(other_model(other, state, writer.state.settings.model, str(folder)))
            if state.settings != writer.state.settings:
                raise ClipBertError(
                    f"{other}: has other settings ({state.settings}) than {folder} ({writer.state.settings}). Make it "
                    "again with the same ones: clipbert index build --replace"
                )
            for record in state.segments:
                count += _adopt(writer, other, record)
    return count


def _adopt(writer: IndexWriter, other: Path, record: SegmentRecord) -> int:
    """Copy a segment of another index; the paths of its videos are written for the place of this one."""
    segment = Segment(other, record)
    rows = segment.videos.to_pylist()
    for row in rows:
        row["path"] = stored_path(writer.folder, resolved(other, row["path"]))
    new = _with_rows(writer, segment, rows)
    names = [rows[number]["video_id"] for number in np.flatnonzero(segment.live_videos).tolist()]
    state = writer.without([name for name in names if name in writer.places])
    writer.adopt(state.with_segments(replace(new, deleted=record.deleted)))
    return len(names)


def _with_rows(writer: IndexWriter, segment: Segment, rows: list[dict[str, Any]]) -> SegmentRecord:
    """Write a copy of a segment with another table of videos."""
    name = segment_name(writer.state.written)
    with atomic_directory(writer.folder / SEGMENTS / name) as out:
        for file in segment.record.files:
            if file != VIDEOS_FILE:
                shutil.copyfile(segment.folder / file, out / file)
        write_rows(out / VIDEOS_FILE, rows)
        return record_of(out, name, segment.record.videos, segment.record.clips)


def resolved(folder: Path, stored: str) -> Path:
    """Return the path of a video of the index in `folder`."""
    path = Path(stored)
    return path if path.is_absolute() else Path(*_normal(folder.absolute() / path))


def _normal(path: Path) -> tuple[str, ...]:
    parts: list[str] = []
    for part in path.parts:
        if part == "..":
            parts.pop()
        else:
            parts.append(part)
    return tuple(parts)


def _update(
    writer: IndexWriter, executor: Executor, videos: Sequence[VideoSource], title: str | None, final: Path
) -> BuildResult:
    """Add what is new or changed."""
    stamps = {source.video_id: stamp_of(source.path) for source in videos}
    known = {each.video_id: each for each in writer.state.failures}
    wanted, failed = [], []
    for source in videos:
        failure = known.get(source.video_id)
        if failure is not None and tuple(failure.stamp) == stamps[source.video_id] != (0, 0):
            failed.append(failure)
        elif not unchanged(source, stamps[source.video_id], writer.places):
            wanted.append(source)
    kept = len(videos) - len(wanted) - len(failed)
    same = [source for source in videos if source.video_id in writer.places]
    _update_metadata(writer, [source for source in same if source not in wanted])
    added, new = 0, list[Failure]()
    try:
        with progress(title if wanted else None, len(videos), len(videos) - len(wanted)) as advance:
            for source, outcome in executor.imap(wanted):
                if isinstance(outcome, Exception):
                    reason = str(outcome).replace(f"{source.path}: ", "").strip()
                    stamp = list(stamps[source.video_id])
                    new.append(Failure(source.video_id, stored_path(final, source.path), reason, stamp))
                else:
                    writer.add(_indexed(final, source, outcome, stamps[source.video_id]))
                    added += 1
                advance(1, source.video_id)
    except KeyboardInterrupt:
        with contextlib.suppress(ClipBertError):
            writer.commit()
        raise
    writer.commit()
    if new:
        writer.fail(new)
        changed = [each.video_id for each in new if each.video_id in writer.places]
        if changed:  # an older content must not be found under this name
            failures = writer.state.failures
            writer.remove(changed)
            writer.fail([each for each in failures if each.video_id in changed])
    if not writer.places and (new or failed):
        first = (new or failed)[0]
        raise ClipBertError(
            f"none of {len(videos)} videos could be indexed; the first: {first.video_id}: {first.reason}. Check the "
            "files."
        )
    return BuildResult(added, kept, 0, writer.state.failures)


def _indexed(final: Path, source: VideoSource, outcome: EncodedVideo, stamp: tuple[int, int]) -> IndexedVideo:
    metadata = {key: value for key, given in source.metadata.items() if (value := plain(given)) is not None}
    return IndexedVideo(
        source.video_id,
        stored_path(final, source.path),
        outcome.video.sha256,
        stamp,
        outcome.video.duration_s,
        metadata,
        np.asarray(outcome.video.spans, np.float64).reshape(-1, 2),
        outcome.vectors,
        outcome.tokens,
    )


def _update_metadata(writer: IndexWriter, sources: Iterable[VideoSource]) -> None:
    """Write changed metadata of unchanged videos, which needs a copy of their segments but no vectors."""
    changed: dict[str, dict[int, VideoSource]] = {}
    for source in sources:
        place = writer.places[source.video_id]
        metadata = {key: value for key, given in source.metadata.items() if (value := plain(given)) is not None}
        if metadata != place.metadata:
            changed.setdefault(place.segment, {})[place.number] = source
    for name, rows in changed.items():
        record = next(each for each in writer.state.segments if each.name == name)
        segment = Segment(writer.folder, record)
        table = segment.videos.to_pylist()
        for number, source in rows.items():
            row = {key: value for key, value in table[number].items() if not key.startswith("metadata.")}
            table[number] = row | {f"metadata.{key}": plain(value) for key, value in source.metadata.items()}
        new = replace(_with_rows(writer, segment, table), deleted=record.deleted)
        kept = [each for each in writer.state.segments if each.name != name]
        state = replace(writer.state, segments=tuple(kept))
        writer.adopt(state.with_segments(new))


def _has(folder: Path, settings: Any) -> bool:
    """Return whether a folder has an index with these settings."""
    try:
        return read_state(folder).settings == settings
    except ClipBertError:
        return False


def _take_place(new: Path, folder: Path) -> None:
    """Put a finished index in the place of the old one, which is removed."""
    if not exchange(new, folder):
        old = folder.with_name(f"{folder.name}.old")
        folder.rename(old)
        new.rename(folder)
        shutil.rmtree(old)
    else:
        shutil.rmtree(new)
    fsync_directory(folder.parent)
