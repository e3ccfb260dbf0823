"""Update of a cache to the wanted media: one pass that keeps what is current and makes the rest.

Unchanged shards are not even read; the others are written to `.next/`, from entries that the cache holds and from new
ones. Renaming `.next/` to `.ready/` commits: before it the old cache is untouched and the next run resumes from what
was made, after it the next run completes the replacement.
"""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from clipbert.config.schema import FramesParams
from clipbert.console import console, progress
from clipbert.data.quarantine import NotDecoded, Quarantined, read_quarantine, write_quarantine
from clipbert.errors import ClipBertError
from clipbert.files.atomic import write_errors
from clipbert.frame_cache.commit import (
    NEXT_FOLDER,
    commit,
    complete_exchange,
    exclusive,
    remove_build_folders,
    set_aside,
)
from clipbert.frame_cache.index import INDEX_FILE, QUARANTINE_FILE, Entry, IndexWriter, Settings
from clipbert.frame_cache.job import Executor, Job, Origin, Outcome
from clipbert.frame_cache.plan import LEFT_OUT, MISSING, Content, Sources, Wanted, find_sources, rows
from clipbert.frame_cache.shards import Packed, ShardWriter, read_packed

LISTED_FAILURES = 20


def update_cache(
    out: Path,
    table: Any,
    settings: Settings,
    params: FramesParams,
    origin: Origin,
    workers: int | None = None,
    repair: bool = False,
    max_quarantined_fraction: float = 0.0,
) -> "Build":
    """Update the cache in `out` to the wanted media, with new entries from `origin`; see `build_cache`.

    Args:
        table: the wanted media, sorted, with the columns that `rows` reads.
        settings: of the whole cache; an entry made with others is made again.
        params: the limits that are recorded of files that cannot be decoded.
    """
    with write_errors(out), exclusive(out):
        complete_exchange(out)
        set_aside(out)
        listed = _listed(out / QUARANTINE_FILE)
        sources = find_sources(out, table, settings, params, listed, repair)
        build = Build(out, table, sources, settings, params, origin, max_quarantined_fraction)
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
    return build


def _listed(path: Path) -> dict[str, NotDecoded]:
    """Return the quarantine of the last build by media; of a damaged one nothing, so that its files are tried again."""
    try:
        return {record.media: record for record in read_quarantine(path, NotDecoded)}
    except ClipBertError as error:
        console.print(f"{error}. The files in it are decoded again.")
        return {}


class Build:
    """One pass over the wanted media, with its counts."""

    def __init__(
        self,
        out: Path,
        table: Any,
        sources: Sources,
        settings: Settings,
        params: FramesParams,
        origin: Origin,
        max_quarantined_fraction: float,
    ) -> None:
        self.out = out
        self.table = table
        self.sources = sources
        self.settings = settings
        self.params = params
        self.origin = origin
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
        self.origin.check(self._jobs())
        folder = self.out / NEXT_FOLDER
        folder.mkdir()
        index = IndexWriter(folder / INDEX_FILE, self.settings)
        writer = ShardWriter(folder, self.settings.shard_bytes, index.add)
        total = self.table.num_rows
        with (
            contextlib.closing(index),
            contextlib.closing(writer),
            progress(self.origin.title, total, total - jobs) as advance,
            self.origin.open(workers, jobs) if jobs else contextlib.nullcontext() as executor,
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
                yield self.origin.job(wanted)

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
            return executor.run(self.origin.job(wanted))
        with self.origin.open(1, 1) as opened:
            return opened.run(self.origin.job(wanted))

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
