"""Merging of segments: few large ones are faster to search than many small ones, and deleted videos free space."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from clipbert.files.atomic import atomic_directory
from clipbert.search.index_file import SEGMENTS, SegmentRecord
from clipbert.search.segment import (
    CLIPS_FILE,
    TOKENS_FILE,
    VECTORS_FILE,
    VIDEOS_FILE,
    Segment,
    record_of,
    segment_name,
    write_rows,
)
from clipbert.search.vectors import write_vectors

MERGED_AT_ONCE = 8  # segments of one size
SMALLEST = 1024  # clips; smaller segments count as one size
DELETED_SHARE = 0.5
ROWS_AT_ONCE = 1024


def mergeable(segments: Sequence[SegmentRecord]) -> list[str]:
    """Return the names of the segments to merge now; empty if there are none.

    Eight segments whose numbers of clips have one magnitude (to the base 8) become one, so that each clip is copied a
    number of times that grows with the logarithm of all, as in log-structured merge trees (O'Neil et al. 1996).
    """
    for segment in segments:
        if segment.deleted and len(segment.deleted) >= DELETED_SHARE * segment.videos:
            return [segment.name]
    groups: dict[int, list[str]] = {}
    for segment in segments:
        magnitude = int(np.log(max(segment.clips, SMALLEST) / SMALLEST) / np.log(MERGED_AT_ONCE) + 1e-9)
        groups.setdefault(magnitude, []).append(segment.name)
    return next((names for names in groups.values() if len(names) >= MERGED_AT_ONCE), [])


def merge_segments(folder: Path, number: int, records: Sequence[SegmentRecord]) -> SegmentRecord | None:
    """Write one segment with the videos of several that count, and return its record; None if there are none.

    Args:
        folder: of the index.
        number: of the new segment.

    Raises:
        ClipBertError: a segment is damaged, the disk is full, or the folder cannot be written.
    """
    segments = [Segment(folder, record) for record in records]
    kept = [segment.live_videos for segment in segments]
    if not any(videos.any() for videos in kept):
        return None
    rows: list[dict[str, Any]] = []
    clips, vectors = [], []
    for segment, videos in zip(segments, kept, strict=True):
        chosen = videos[segment.clips["video"]]
        own = np.array(segment.clips[chosen])
        own["video"] = (np.cumsum(videos) - 1)[own["video"]] + len(rows)
        clips.append(own)
        vectors.append(np.concatenate(list(segment.vectors.blocks()))[chosen])
        table = segment.videos.to_pylist()
        rows += [table[position] for position in np.flatnonzero(videos).tolist()]
    every = np.concatenate(clips)
    name = segment_name(number)
    with atomic_directory(folder / SEGMENTS / name) as out:
        np.save(out / CLIPS_FILE, every)
        write_vectors(out / VECTORS_FILE, np.concatenate(vectors))
        if all(segment.tokens is not None for segment in segments):
            _copy_tokens(out / TOKENS_FILE, segments, kept, len(every))
        write_rows(out / VIDEOS_FILE, rows)
        return record_of(out, name, len(rows), len(every))


def _copy_tokens(path: Path, segments: Sequence[Segment], kept: Sequence[Any], count: int) -> None:
    first = segments[0].tokens
    assert first is not None
    out = np.lib.format.open_memmap(path, mode="w+", dtype=first.dtype, shape=(count, *first.shape[1:]))
    start = 0
    for segment, videos in zip(segments, kept, strict=True):
        chosen = np.flatnonzero(videos[segment.clips["video"]])
        for first_row in range(0, len(chosen), ROWS_AT_ONCE):
            some = chosen[first_row : first_row + ROWS_AT_ONCE]
            assert segment.tokens is not None
            out[start : start + len(some)] = segment.tokens[some]
            start += len(some)
    out.flush()
