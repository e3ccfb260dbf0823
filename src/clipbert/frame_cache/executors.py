"""Executors that decode files; the local one uses processes of this machine (see cluster.py for the other)."""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import partial

from clipbert.errors import ClipBertError
from clipbert.files.remote import SourceError
from clipbert.frame_cache.job import Job, Outcome
from clipbert.frame_cache.pack import job_limit, pack, try_again
from clipbert.frame_cache.shards import Packed
from clipbert.process_pool import KillablePool, WorkerError


class LocalExecutor:
    """Executor with processes of this machine."""

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
