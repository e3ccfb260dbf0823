"""Where files are decoded: in processes of this machine, or of a cluster (cluster.py)."""

import contextlib
import os
from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import partial
from typing import Protocol

from clipbert.config.schema import FramesParams
from clipbert.errors import ClipBertError
from clipbert.files.leftovers import scratch_folder
from clipbert.frame_cache.pack import Failure, Job, job_limit, pack, try_again
from clipbert.frame_cache.remote import SourceError
from clipbert.frame_cache.shards import Packed
from clipbert.process_pool import KillablePool, WorkerError

Outcome = Packed | Failure


class Executor(Protocol):
    """Decodes files, each in a process that can be killed."""

    def imap(self, jobs: Iterable[Job]) -> Iterator[tuple[Job, Outcome]]:
        """Every job with its outcome, in order; a bounded number is under way at a time.

        Raises:
            SourceError: a file is missing, out of reach or changed.
        """

    def run(self, job: Job) -> Outcome:
        """One job."""


class LocalExecutor:
    """Processes of this machine."""

    def __init__(self, pool: KillablePool, timeout_s: float, scratch: str) -> None:
        self.pool, self.timeout_s, self.scratch = pool, timeout_s, scratch

    def imap(self, jobs: Iterable[Job]) -> Iterator[tuple[Job, Outcome]]:
        placed = (replace(job, scratch=self.scratch) for job in jobs)
        limit = partial(job_limit, timeout_s=self.timeout_s)
        for job, future in self.pool.imap(_first_try, placed, limit):
            try:
                yield job, future.result()
            except SourceError:
                raise
            except (WorkerError, ClipBertError):
                yield job, try_again(self.pool, job, self.timeout_s)

    def run(self, job: Job) -> Outcome:
        return next(self.imap([job]))[1]


def _first_try(job: Job) -> Packed:
    return pack(job, job.decoder)


@contextlib.contextmanager
def open_executor(params: FramesParams, workers: int | None, jobs: int) -> Iterator[Executor]:
    """The executor that the parameters name, for about this many jobs.

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
        from clipbert.frame_cache.cluster import open_cluster

        with open_cluster(params) as executor:
            yield executor
