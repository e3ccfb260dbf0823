"""Jobs that make the entries of a cache, and the interfaces of what runs them."""

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

from clipbert.data.quarantine import Quarantined
from clipbert.frame_cache.plan import Wanted
from clipbert.frame_cache.shards import Packed

Outcome = Packed | Quarantined


@dataclass(frozen=True)
class Job:
    """One file to decode, with everything that a worker process needs.

    `path`: path or URL of the file. `decoder`: the decoder that ingest chose. `scratch`: folder for fetched files.
    """

    path: str
    media: str
    sha256: str
    decoder: str
    duration_s: float
    decoding: dict[str, Any]
    scratch: str = ""


class Executor(Protocol):
    """Interface of executors: they decode files, each in a process that can be killed."""

    def imap(self, jobs: Iterable[Job]) -> Iterator[tuple[Job, Outcome]]:
        """Yield every job with its outcome, in order; a bounded number runs at a time.

        Raises:
            SourceError: a file is missing, out of reach or changed.
        """

    def run(self, job: Job) -> Outcome:
        """Run one job."""


class Origin(Protocol):
    """What the entries of a cache are made of: media files for frames, the frame cache for features.

    Attributes:
        title: of the progress bar.
    """

    title: str

    def job(self, wanted: Wanted) -> Job:
        """Return the job that makes the entry of a media."""

    def check(self, jobs: Iterator[Job]) -> None:
        """Check that what the jobs read is there.

        Raises:
            SourceError: naming what is not.
        """

    def open(self, workers: int | None, jobs: int) -> AbstractContextManager[Executor]:
        """Return a context manager that gives the executor of about `jobs` jobs.

        Args:
            workers: processes on this machine; None: one per core.

        Raises:
            ClipBertError: it cannot be reached.
        """
