"""Stage frames: bring the cache in line with the manifest, decoding only what it does not hold yet.

Three steps, each safe to kill. Missing files are decoded into `.decoded/`, from where a later run goes on. The new
cache is put together in `.next/`, whole shards linked, moved entries copied. Renaming it to `.ready/` decides: before,
the old cache is untouched; after, the next run completes the exchange.
"""

import contextlib
import importlib.metadata
import os
import time
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from clipbert.console import console, progress
from clipbert.data.manifest import read_videos
from clipbert.errors import ClipBertError
from clipbert.files import write_errors
from clipbert.frames.exchange import (
    DECODED_FOLDER,
    NEXT_FOLDER,
    commit,
    complete_exchange,
    exclusive,
    remove_leftovers,
)
from clipbert.frames.index import FORMAT, INDEX_FILE, SHARDS, Entry, Settings, read_index, write_index
from clipbert.frames.shards import Job, ShardWriter, is_exactly, pack, read_packed, recover_entries
from clipbert.params import FramesParams
from clipbert.workers import KillablePool

LISTED_FAILURES = 20

Key = tuple[str, str, str]


@dataclass(frozen=True)
class CacheSummary:
    """What the stage did: media in the cache, of them `decoded` now and `reused`, `removed` since the last build, and
    `damaged` ones decoded again; `frames` and `bytes` of the whole cache."""

    media: int
    frames: int
    decoded: int
    reused: int
    removed: int
    damaged: int
    shards: int
    bytes: int
    seconds: float

    def lines(self) -> list[str]:
        """The summary a person reads."""
        if not self.decoded and not self.removed:
            work = "nothing to do"
        else:
            work = f"{self.decoded} decoded, {self.reused} kept, {self.removed} removed"
        found = [
            f"frames: {self.media} media, {self.frames} frames, {self.shards} shards, {self.bytes / 1e6:.1f} MB; "
            f"{work} ({self.seconds:.1f} s)"
        ]
        if self.damaged:
            found.append(f"{self.damaged} entries were damaged on disk and have been decoded again")
        return found


@dataclass(frozen=True)
class _Source:
    """An intact entry and the shard file that holds it."""

    entry: Entry
    shard: Path


def build_cache(
    data: Path, manifest_dir: Path, out: Path, params: FramesParams, workers: int | None = None
) -> CacheSummary:
    """Make `out` the frame cache of the manifest: entries sorted by media, the same bytes whichever way it came about.

    An entry is kept when its file's hash, its decoder and the decoding parameters are those it was made with and its
    bytes are intact. `out` belongs to this function: leftovers of killed runs in it are used, then removed.

    Args:
        workers: decoding processes; None: one per core.

    Raises:
        ClipBertError: no manifest, another build of `out` at work, a full disk, or files that cannot be decoded (the
            others' frames are kept for the next run). The cache is then as it was.
    """
    started = time.monotonic()
    videos = read_videos(manifest_dir).sort_values("media")
    wanted: list[Key] = list(zip(videos["media"], videos["sha256"], videos["path_taken"], strict=True))
    if not wanted:
        raise ClipBertError(f"{manifest_dir}: the manifest holds no media. Add videos to {data}, then: clipbert ingest")
    settings = Settings(_decoding(params), round(params.shard_mb * 2**20))
    with write_errors(out), exclusive(out):
        complete_exchange(out)
        before, same_settings = _read_present(out, settings)
        sources = _intact(out, before, set(wanted))
        damaged = len(set(wanted).intersection(map(_key, before))) - len(sources)
        if same_settings and [_key(entry) for entry in before] == wanted == list(sources) and _is_tidy(out, sources):
            remove_leftovers(out)
            return _summary(out, before, 0, 0, 0, started)
        out.mkdir(exist_ok=True)
        try:
            decoded = _decode_missing(data, out / DECODED_FOLDER, wanted, sources, settings, params.timeout_s, workers)
            entries = _assemble(out, wanted, sources, settings)
        except OSError:
            # a full disk: give back what this build took, as the message promises
            remove_leftovers(out)
            raise
        complete_exchange(out)
        remove_leftovers(out)
    removed = len({entry.media for entry in before} - {media for media, _, _ in wanted})
    return _summary(out, entries, decoded, removed, damaged, started)


def _decoding(params: FramesParams) -> dict[str, float | int | str]:
    """All that decides the bytes of an entry, besides the file itself."""
    versions = {name: importlib.metadata.version(name) for name in ("av", "decord", "pillow")}
    chosen = {"fps": params.fps, "size": params.size, "quality": params.quality, "max_frames": params.max_frames}
    return {"format": FORMAT, **chosen, **versions}


def _key(entry: Entry) -> Key:
    return entry.media, entry.sha256, entry.decoder


def _read_present(out: Path, settings: Settings) -> tuple[list[Entry], bool]:
    """The entries that may be kept as far as settings go, and whether even shards end where they would today."""
    if not (out / INDEX_FILE).is_file():
        return [], False
    try:
        entries, found = read_index(out)
    except ClipBertError as error:
        console.print(f"{error}; decoding everything again", markup=False)
        return [], False
    changes = [
        f"{name} {found.decoding.get(name)} -> {value}"
        for name, value in settings.decoding.items()
        if found.decoding.get(name) != value
    ]
    if changes:
        console.print(f"frames: {', '.join(changes)}: decoding everything again", markup=False)
        return [], False
    return entries, found == settings


def _intact(out: Path, entries: list[Entry], wanted: set[Key]) -> dict[Key, _Source]:
    """The wanted ones among the present entries, every byte of them checked."""
    return {
        _key(entry): _Source(entry, out / entry.shard)
        for entry in entries
        if _key(entry) in wanted and read_packed(out / entry.shard, entry) is not None
    }


def _by_shard(sources: Iterable[_Source]) -> dict[Path, list[Entry]]:
    """The entries of each shard file, in the order in which they lie there."""
    runs: dict[Path, list[Entry]] = defaultdict(list)
    for source in sources:
        runs[source.shard].append(source.entry)
    for run in runs.values():
        run.sort(key=lambda entry: entry.offset)
    return runs


def _is_tidy(out: Path, sources: dict[Key, _Source]) -> bool:
    """Whether the folder holds the shards of these entries, and no other."""
    runs = _by_shard(sources.values())
    return set(out.glob(SHARDS)) == set(runs) and all(is_exactly(shard, run) for shard, run in runs.items())


def _decode_missing(
    data: Path,
    folder: Path,
    wanted: list[Key],
    sources: dict[Key, _Source],
    settings: Settings,
    timeout_s: float,
    workers: int | None,
) -> int:
    """Add to `sources` what it lacks: from the shards of a killed run in `folder`, else decoded now and written there.

    Returns the number of files decoded now.
    """
    folder.mkdir(exist_ok=True)
    for shard in sorted(folder.glob(SHARDS)):
        for entry in recover_entries(shard, settings.decoding):
            sources.setdefault(_key(entry), _Source(entry, shard))
    missing = [key for key in wanted if key not in sources]
    jobs = (Job(str(data / key[0]), *key, settings.decoding) for key in missing)
    writer = ShardWriter(folder, settings.shard_bytes)
    failures: dict[str, BaseException] = {}
    processes = max(1, min(workers or len(os.sched_getaffinity(0)), len(missing)))
    with (
        contextlib.closing(writer),
        progress("frames", len(wanted), len(wanted) - len(missing)) as advance,
        KillablePool(processes, timeout_s) as pool,
    ):
        for job, future in pool.imap(pack, jobs):
            error = future.exception()
            if error is None:
                writer.add(future.result())
            else:
                failures[job.media] = error
            advance(1, job.media)
    if failures:
        raise ClipBertError(_describe(failures, len(wanted), timeout_s))
    sources.update((_key(entry), _Source(entry, folder / entry.shard)) for entry in writer.entries)
    return len(missing)


def _describe(failures: dict[str, BaseException], total: int, timeout_s: float) -> str:
    listed = [f"  {media}: {error}" for media, error in list(failures.items())[:LISTED_FAILURES]]
    if len(failures) > len(listed):
        listed.append(f"  and {len(failures) - len(listed)} more")
    return "\n".join(
        [
            f"{len(failures)} of {total} media could not be decoded, though ingest passed them:",
            *listed,
            "The cache is as it was; what was decoded is kept for the next run. If these files changed, run: clipbert "
            f"ingest. If they are only slow, raise frames.timeout_s (now {timeout_s:g}). Else take them out of data/.",
        ]
    )


def _assemble(out: Path, wanted: list[Key], sources: dict[Key, _Source], settings: Settings) -> list[Entry]:
    """Put the new cache together beside the old one and declare it finished."""
    folder = out / NEXT_FOLDER
    folder.mkdir()
    writer = ShardWriter(folder, settings.shard_bytes)
    runs = _by_shard(sources.values())
    with contextlib.closing(writer):
        place = 0
        while place < len(wanted):
            source = sources[wanted[place]]
            run = runs[source.shard]
            end = place + len(run)
            if (
                [_key(entry) for entry in run] == wanted[place:end]
                and writer.can_take_whole(run, last=end == len(wanted))
                and is_exactly(source.shard, run)
            ):
                writer.take_whole(source.shard, run)
                place = end
                continue
            packed = read_packed(source.shard, source.entry)
            if packed is None:
                raise ClipBertError(
                    f"{source.shard}: changed while the cache was being built. Run clipbert frames again."
                )
            writer.add(packed)
            place += 1
    write_index(folder / INDEX_FILE, writer.entries, settings)
    commit(out)
    return writer.entries


def _summary(out: Path, entries: list[Entry], decoded: int, removed: int, damaged: int, started: float) -> CacheSummary:
    shards = {entry.shard for entry in entries}
    return CacheSummary(
        media=len(entries),
        frames=sum(len(entry.times) for entry in entries),
        decoded=decoded,
        reused=len(entries) - decoded,
        removed=removed,
        damaged=damaged,
        shards=len(shards),
        bytes=sum((out / name).stat().st_size for name in (*shards, INDEX_FILE)),
        seconds=time.monotonic() - started,
    )
