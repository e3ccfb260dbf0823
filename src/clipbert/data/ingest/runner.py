"""Probing of all files of data/ in killable processes; a file whose process died is probed again without decord."""

import contextlib
import dataclasses
import importlib.metadata
import json
import os
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from clipbert.config.data import IngestParams
from clipbert.data.ingest.probe import FORMAT, Limits, MediaInfo, ProbeError, Rejected, probe
from clipbert.data.ingest.probe_cache import ProbeCache, file_stamp, known_by_content
from clipbert.data.ingest.select import Selection
from clipbert.files.atomic import sha256_file
from clipbert.process_pool import (
    IN_FLIGHT_PER_WORKER,
    KillablePool,
    WorkerDied,
    WorkerError,
    WorkerMemory,
    WorkerTimeout,
    time_limit,
)

# Limits that do not affect the probe; they are checked in every run.
LIMIT_REASONS = frozenset({"too_short", "too_long", "too_large", "extreme_aspect"})

Outcome = MediaInfo | Rejected


@dataclasses.dataclass(frozen=True)
class Task:
    """One file to probe, with everything that a worker process needs."""

    data: str
    media: str
    limits: Limits
    verify: str
    cache: tuple[str, str, str]


@contextlib.contextmanager
def open_probe_cache(path: Path, params: IngestParams, all_files: bool = True) -> Iterator[ProbeCache]:
    """Open the cache of earlier probes with these parameters.

    Args:
        all_files: a block that ends without error met all files; the others are forgotten.
    """
    versions = {name: importlib.metadata.version(name) for name in ("av", "decord", "pillow")}
    settings = {"format": FORMAT, "verify": params.verify, "megapixels": params.max_megapixels, **versions}
    failures = {"timeout_s": params.timeout_s, "max_worker_mb": params.max_worker_mb}
    cache = ProbeCache(path, json.dumps(settings), json.dumps(failures))
    complete = False
    try:
        yield cache
        complete = all_files
    finally:
        cache.close(complete)


def limits_of(params: IngestParams) -> Limits:
    """Return the limits of a file."""
    return Limits(params.min_duration_s, params.max_duration_s, params.max_megapixels, params.max_aspect)


def probe_all(
    data: Path, selection: Selection, params: IngestParams, cache: ProbeCache, careful: bool = False
) -> Iterator[tuple[str, Outcome]]:
    """Yield the outcome of each file of the selection, in its order; cached outcomes are not probed again.

    Args:
        careful: do not use decord at all.
    """
    limits = limits_of(params)
    recall = (str(cache.path), cache.settings, cache.failures)
    workers = params.num_workers or len(os.sched_getaffinity(0))
    waiting: deque[tuple[str, Outcome | _Probing]] = deque()
    with KillablePool(workers, params.timeout_s, params.max_worker_mb) as pool:
        for media in selection.media:
            known = selection.rejected.get(media) or _recalled(cache.find(data, media), limits)
            task = Task(str(data), media, limits, params.verify, recall)
            waiting.append((media, known or _Probing(pool, task, params.timeout_s, careful)))
            while waiting and not (isinstance(waiting[0][1], _Probing) and len(waiting) <= _ahead(workers)):
                yield _settle(*waiting.popleft(), cache)
        while waiting:
            yield _settle(*waiting.popleft(), cache)


def _ahead(workers: int) -> int:
    return IN_FLIGHT_PER_WORKER * workers


def _recalled(outcome: Outcome | None, limits: Limits) -> Outcome | None:
    if isinstance(outcome, MediaInfo):
        try:
            limits.check(outcome)
        except ProbeError as error:
            return Rejected(error.reason, str(error))
    return outcome


class _Probing:
    """File whose probe is running or queued."""

    def __init__(self, pool: KillablePool, task: Task, timeout_s: float, careful: bool) -> None:
        self._pool, self._task = pool, task
        self.stamp = file_stamp(Path(task.data) / task.media)
        self._limit_s = time_limit(timeout_s, size=int(self.stamp.split()[0]) if self.stamp else 0)
        self._future = self._submit(careful=careful)

    def _submit(self, careful: bool, fresh: bool = False) -> Future[Any]:
        return self._pool.submit(probe_task, self._task, careful, timeout_s=self._limit_s, fresh=fresh)

    def result(self) -> tuple[str, Outcome]:
        """Return (sha256, outcome); the hash is empty if the file could not be read."""
        try:
            first: tuple[str, Outcome] = self._future.result()
            return first
        except WorkerError:
            self._future = self._submit(careful=True, fresh=True)
        try:
            second: tuple[str, Outcome] = self._future.result()
            return second
        except WorkerTimeout as error:
            return self._hash(), Rejected("timeout", f"twice: {error}; raise ingest.timeout_s if the file is good")
        except WorkerMemory as error:
            return self._hash(), Rejected("memory", f"twice: {error}; raise ingest.max_worker_mb if the file is good")
        except WorkerDied as error:
            reason = "memory" if "SIGKILL" in str(error) else "unreadable"
            return self._hash(), Rejected(reason, f"the decoder crashed twice: {error}")

    def _hash(self) -> str:
        """Return the SHA-256 of a file on which workers died; reading it here is safe, because nothing is decoded."""
        try:
            return sha256_file(Path(self._task.data) / self._task.media)
        except OSError:
            return ""


def probe_task(task: Task, careful: bool) -> tuple[str, Outcome]:
    """Probe a file in a worker, or find its bytes in the probe cache; return (sha256, outcome)."""
    path = Path(task.data) / task.media
    try:
        sha256 = sha256_file(path)
    except OSError as error:
        return "", Rejected("unreadable", error.strerror or str(error))
    memory, settings, failures = task.cache
    known = _recalled(known_by_content(Path(memory), sha256, task.media, settings, failures), task.limits)
    return sha256, known or probe(task.data, task.media, task.limits, task.verify, careful, sha256)


def _settle(media: str, found: "Outcome | _Probing", cache: ProbeCache) -> tuple[str, Outcome]:
    if not isinstance(found, _Probing):
        return media, found
    sha256, outcome = found.result()
    bound = isinstance(outcome, Rejected) and outcome.reason in LIMIT_REASONS
    if sha256 and found.stamp and not bound:
        cache.add(media, found.stamp, sha256, outcome)
    return media, outcome
