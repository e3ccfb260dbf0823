"""Stage frames: update the cache to the manifest, decoding only what it does not hold yet (`update.py`)."""

import contextlib
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from clipbert.config.schema import FramesParams
from clipbert.data.manifest import read_video_columns
from clipbert.errors import ClipBertError
from clipbert.files.leftovers import scratch_folder
from clipbert.files.remote import SourceError, below, is_url
from clipbert.frame_cache.cluster import open_cluster
from clipbert.frame_cache.executors import LocalExecutor
from clipbert.frame_cache.index import FORMAT, INDEX_FILE, QUARANTINE_FILE, Index, Settings
from clipbert.frame_cache.job import Executor, Job
from clipbert.frame_cache.pack import missing_message, versions
from clipbert.frame_cache.plan import Wanted
from clipbert.frame_cache.remote import publish
from clipbert.frame_cache.update import Build, update_cache
from clipbert.process_pool import KillablePool


@dataclass(frozen=True)
class CacheSummary:
    """Result of a build: media in the cache, of them `decoded` now and `reused`; `removed` since the last build;
    `damaged` ones decoded again; `quarantined` ones, which are not in the cache; `frames` and `bytes` of the whole
    cache; `sent` shards, None if the cache is not published."""

    media: int
    frames: int
    decoded: int
    reused: int
    removed: int
    damaged: int
    quarantined: int
    shards: int
    bytes: int
    seconds: float
    sent: int | None = None

    def lines(self) -> list[str]:
        """Return the lines that the stage prints."""
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
        if self.quarantined:
            found.append(
                f"quarantined: {self.quarantined} media that ingest passed cannot be decoded and are not in the cache; "
                f"artifacts/frames/{QUARANTINE_FILE} says why (clipbert frames --repair tries them again)"
            )
        if self.sent is not None:
            found.append(f"published: {self.sent} shards sent")
        return found


class MediaFiles:
    """Origin of the frames: the media files, decoded by the executor that `frames.executor` names."""

    title = "frames"

    def __init__(self, data: Path, params: FramesParams, settings: Settings) -> None:
        self.base = params.media_url or str(data.resolve())
        self.params, self.settings = params, settings

    def job(self, wanted: Wanted) -> Job:
        path = below(self.base, wanted.media)
        return Job(path, wanted.media, *wanted.content, wanted.duration_s, self.settings.decoding)

    def check(self, jobs: Iterator[Job]) -> None:
        if self.params.executor == "local" and not is_url(self.base):
            absent = [job.path for job in jobs if not Path(job.path).is_file()]
            if absent:
                raise SourceError(missing_message(absent))

    @contextlib.contextmanager
    def open(self, workers: int | None, jobs: int) -> Iterator[Executor]:
        params = self.params
        if params.executor == "local":
            processes = max(1, min(workers or len(os.sched_getaffinity(0)), jobs))
            with (
                scratch_folder() as scratch,
                KillablePool(processes, params.timeout_s, params.max_worker_mb) as pool,
            ):
                yield LocalExecutor(pool, params.timeout_s, str(scratch))
        else:
            with open_cluster(params) as executor:
                yield executor


def build_cache(
    data: Path,
    manifest_dir: Path,
    out: Path,
    params: FramesParams,
    workers: int | None = None,
    repair: bool = False,
    max_quarantined_fraction: float = 0.05,
) -> CacheSummary:
    """Update `out` to the frame cache of the manifest: entries sorted by media, the same bytes for every order of
    builds.

    An entry is kept if its file's hash, decoder and decoding parameters are unchanged. What killed runs left in `out`
    is reused, then removed.

    Args:
        workers: decoding processes on this machine; None: one per core.
        repair: check every byte of the cache instead of names and sizes, and try quarantined files again.
        max_quarantined_fraction: of all media; when more cannot be decoded, the build fails.

    Raises:
        ClipBertError: the manifest is missing, another process builds `out`, the disk is full, files are missing or
            changed, or too many cannot be decoded. The cache is then unchanged; what was decoded is kept.
    """
    started = time.monotonic()
    table = read_video_columns(manifest_dir, ["media", "sha256", "path_taken", "duration_s"])
    if not table.num_rows:
        raise ClipBertError(f"{manifest_dir}: the manifest holds no media. Add videos to {data}, then: clipbert ingest")
    settings = Settings(_decoding(params), round(params.shard_mb * 2**20))
    origin = MediaFiles(data, params, settings)
    build = update_cache(out, table, settings, params, origin, workers, repair, max_quarantined_fraction)
    sent = publish(out, params.cache_url) if params.cache_url else None
    return _summary(out, build, sent, started)


def _decoding(params: FramesParams) -> dict[str, float | int | str]:
    """Return everything that determines the bytes of an entry besides the file itself."""
    names = ("fps", "size", "quality", "max_frames", "sampling")
    return {"format": FORMAT, **{name: getattr(params, name) for name in names}, **versions()}


def _summary(out: Path, build: Build, sent: int | None, started: float) -> CacheSummary:
    media, frames, shards = Index(out / INDEX_FILE).totals()
    return CacheSummary(
        media=media,
        frames=frames,
        decoded=build.decoded,
        reused=media - build.decoded,
        removed=build.sources.removed,
        damaged=build.damaged,
        quarantined=len(build.quarantine),
        shards=len(shards),
        bytes=sum((out / name).stat().st_size for name in (*shards, INDEX_FILE)),
        seconds=time.monotonic() - started,
        sent=sent,
    )
