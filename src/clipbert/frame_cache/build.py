"""Stage frames: update the cache to the manifest, decoding only what it does not hold yet.

A build is one pass over the manifest. Unchanged shards are not even read; the others are written to `.next/`, from
entries that the cache holds and from newly decoded files. Renaming `.next/` to `.ready/` commits: before it the old
cache is untouched and the next run resumes from what was decoded, after it the next run completes the replacement.
"""

import contextlib
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clipbert.config.schema import FramesParams
from clipbert.console import console, progress
from clipbert.data.manifest import read_video_columns
from clipbert.data.quarantine import NotDecoded, Quarantined, read_quarantine, write_quarantine
from clipbert.errors import ClipBertError
from clipbert.files.atomic import write_errors
from clipbert.files.leftovers import scratch_folder
from clipbert.frame_cache.cluster import open_cluster
from clipbert.frame_cache.commit import (
    NEXT_FOLDER,
    commit,
    complete_exchange,
    exclusive,
    remove_build_folders,
    set_aside,
)
from clipbert.frame_cache.executors import Executor, LocalExecutor, Outcome
from clipbert.frame_cache.index import FORMAT, INDEX_FILE, QUARANTINE_FILE, Entry, Index, IndexWriter, Settings
from clipbert.frame_cache.pack import Job, missing_message, versions
from clipbert.frame_cache.plan import LEFT_OUT, MISSING, Content, Sources, Wanted, find_sources, rows
from clipbert.frame_cache.remote import SourceError, below, is_url, publish
from clipbert.frame_cache.shards import Packed, ShardWriter, read_packed
from clipbert.process_pool import KillablePool

LISTED_FAILURES = 20


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
    with write_errors(out), exclusive(out):
        complete_exchange(out)
        set_aside(out)
        listed = _listed(out / QUARANTINE_FILE)
        sources = find_sources(out, table, settings, params, listed, repair)
        build = _Build(data, out, table, sources, settings, params, max_quarantined_fraction)
        if not sources.nothing_to_do(settings, listed):
            out.mkdir(exist_ok=True)
            try:
                build.run(workers)
            except OSError:
                # free what this build wrote, as the message says
                remove_build_folders(out)
                raise
            complete_exchange(out)
        remove_build_folders(out)
        sent = publish(out, params.cache_url) if params.cache_url else None
    return _summary(out, build, sent, started)


def _listed(path: Path) -> dict[str, NotDecoded]:
    """Return the quarantine of the last build by media; of a damaged one nothing, so that its files are tried again."""
    try:
        return {record.media: record for record in read_quarantine(path, NotDecoded)}
    except ClipBertError as error:
        console.print(f"{error}. The files in it are decoded again.")
        return {}


def _decoding(params: FramesParams) -> dict[str, float | int | str]:
    """Return everything that determines the bytes of an entry besides the file itself."""
    names = ("fps", "size", "quality", "max_frames", "sampling")
    return {"format": FORMAT, **{name: getattr(params, name) for name in names}, **versions()}


class _Build:
    """One pass over the manifest, with its counts."""

    def __init__(
        self,
        data: Path,
        out: Path,
        table: Any,
        sources: Sources,
        settings: Settings,
        params: FramesParams,
        max_quarantined_fraction: float,
    ) -> None:
        self.base = params.media_url or str(data.resolve())
        self.out = out
        self.table = table
        self.sources = sources
        self.settings = settings
        self.params = params
        self.max_quarantined = max_quarantined_fraction * table.num_rows
        self.decoded = 0
        self.damaged = sources.damaged
        self.quarantine = list(sources.quarantine.values())
        self._met: dict[Content, tuple[Path, Entry] | Quarantined] = {}

    def run(self, workers: int | None) -> None:
        """Write the new cache next to the old one and commit it.

        Raises:
            ClipBertError: files are missing or changed, or too many cannot be decoded.
        """
        jobs = sum(1 for _ in self._jobs())
        if self.params.executor == "local" and not is_url(self.base):
            absent = [job.path for job in self._jobs() if not Path(job.path).is_file()]
            if absent:
                raise SourceError(missing_message(absent))
        folder = self.out / NEXT_FOLDER
        folder.mkdir()
        index = IndexWriter(folder / INDEX_FILE, self.settings)
        writer = ShardWriter(folder, self.settings.shard_bytes, index.add)
        total = self.table.num_rows
        with (
            contextlib.closing(index),
            contextlib.closing(writer),
            progress("frames", total, total - jobs) as advance,
            _open_executor(self.params, workers, jobs) if jobs else contextlib.nullcontext() as executor,
        ):
            results = iter(executor.imap(self._jobs())) if executor is not None else iter(())
            wanted = enumerate(rows(self.table))
            for number, row in wanted:
                run = self.sources.run_at(number) if writer.between_shards else None
                if run is not None and writer.fits_whole(run, last=self._is_last(number + len(run))):
                    writer.keep_whole(run)
                    for _ in run[1:]:
                        next(wanted)
                elif self.sources.place[number] != LEFT_OUT:
                    before = self.decoded + len(self.quarantine)
                    self._add(number, row, writer, results, executor)
                    advance(self.decoded + len(self.quarantine) - before, row.media)
        self.quarantine.sort(key=lambda record: record.media)
        if len(self.quarantine) > self.max_quarantined:
            # only now, so that the others are decoded for the next run and the list is complete
            raise ClipBertError(self._describe())
        write_quarantine(folder / QUARANTINE_FILE, self.quarantine, checksums=True)
        for path, name in writer.renames.items():
            os.replace(path, folder / name)
        commit(self.out)

    def _is_last(self, number: int) -> bool:
        return bool((self.sources.place[number:] == LEFT_OUT).all())

    def _jobs(self) -> Iterator[Job]:
        """Yield what is to be decoded: each content once, at its first media."""
        met: set[Content] = set()
        for number, wanted in enumerate(rows(self.table)):
            held = wanted.content in self.sources.recovered or wanted.content in met
            if self.sources.place[number] == MISSING and not held:
                if wanted.content in self.sources.repeated:
                    met.add(wanted.content)
                yield self._job(wanted)

    def _job(self, wanted: Wanted) -> Job:
        path = below(self.base, wanted.media)
        return Job(path, wanted.media, *wanted.content, wanted.duration_s, self.settings.decoding)

    def _add(
        self,
        number: int,
        wanted: Wanted,
        writer: ShardWriter,
        results: Iterator[tuple[Job, Outcome]],
        executor: Executor | None,
    ) -> None:
        """Find or decode the entry of a media and append it."""
        outcome = self._held(number, wanted)
        if outcome is None:
            self.decoded += 1
            if self.sources.place[number] == MISSING and wanted.content not in self.sources.recovered:
                _, outcome = next(results)
            else:
                outcome = self._decode_again(wanted, executor)
        if isinstance(outcome, Quarantined):
            self.decoded -= 1 if outcome.media == wanted.media else 0
            self._fail(wanted, outcome)
        else:
            if outcome.entry.media != wanted.media:
                outcome = outcome.renamed(wanted.media, self.settings.decoding)
            where = writer.add(outcome)
            if wanted.content in self.sources.repeated:
                self._met[wanted.content] = where

    def _held(self, number: int, wanted: Wanted) -> Packed | Quarantined | None:
        """Return the entry of a media from the current cache, a killed run, or another media of the same content; or
        None."""
        if self.sources.place[number] != MISSING:
            return self.sources.read(number)
        met = self._met.get(wanted.content)
        if isinstance(met, Quarantined):
            return met
        where = met or self.sources.recovered.get(wanted.content)
        return None if where is None else read_packed(*where)

    def _decode_again(self, wanted: Wanted, executor: Executor | None) -> Outcome:
        """Decode an entry that was found damaged when it was read."""
        self.damaged += 1
        if executor is not None:
            return executor.run(self._job(wanted))
        with _open_executor(self.params, 1, 1) as opened:
            return opened.run(self._job(wanted))

    def _fail(self, wanted: Wanted, failure: Quarantined) -> None:
        sha256, decoder = wanted.content
        self.quarantine.append(
            NotDecoded(
                wanted.media,
                failure.reason,
                failure.detail,
                failure.first_bad_s,
                sha256=sha256,
                decoder=decoder,
                timeout_s=self.params.timeout_s,
                max_worker_mb=self.params.max_worker_mb,
            )
        )
        if wanted.content in self.sources.repeated:
            self._met[wanted.content] = failure

    def _describe(self) -> str:
        listed = [f"  {failure.media}: {failure.reason}: {failure.detail}" for failure in self.quarantine]
        if len(listed) > LISTED_FAILURES:
            listed[LISTED_FAILURES:] = [f"  and {len(listed) - LISTED_FAILURES} more"]
        total = self.table.num_rows
        return "\n".join(
            [
                f"{len(self.quarantine)} of {total} media could not be decoded, though ingest passed them, more than "
                f"ingest.max_quarantined_fraction = {self.max_quarantined / total:g} allows:",
                *listed,
                "The cache is as it was; what was decoded is kept for the next run. If they are only slow, raise "
                f"frames.timeout_s (now {self.params.timeout_s:g}), if they are only large, frames.max_worker_mb (now "
                f"{self.params.max_worker_mb}). Else take them out of data/, or raise ingest.max_quarantined_fraction.",
            ]
        )


def _summary(out: Path, build: _Build, sent: int | None, started: float) -> CacheSummary:
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


@contextlib.contextmanager
def _open_executor(params: FramesParams, workers: int | None, jobs: int) -> Iterator[Executor]:
    """Yield the executor that `frames.executor` names, for about `jobs` files.

    Args:
        workers: processes on this machine; None: one per core.

    Raises:
        ClipBertError: the cluster cannot be reached.
    """
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
