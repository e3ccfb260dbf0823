"""Executor for a dask cluster: the same jobs in killable processes of the workers; results come back in order."""

import collections
import contextlib
import functools
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

from clipbert.config.schema import FramesParams
from clipbert.console import console
from clipbert.errors import ClipBertError
from clipbert.files.remote import SourceError
from clipbert.frame_cache.executors import LocalExecutor
from clipbert.frame_cache.job import Job, Outcome
from clipbert.frame_cache.pack import versions
from clipbert.process_pool import KillablePool

CONNECT_S = 20.0
NO_WORKERS_S = 120.0
POLL_S = 1.0
RESULT_S = 300.0
IN_FLIGHT_PER_THREAD = 4

Item = TypeVar("Item")


@dataclass(frozen=True)
class Limits:
    """Limits of decoding one file: seconds per minute of video, and MiB."""

    timeout_s: float
    max_worker_mb: int


def decode_there(job: Job, limits: Limits) -> Outcome:
    """Decode one file on a dask worker.

    Raises:
        SourceError: this machine cannot see the file.
        ClipBertError: its library versions differ from those of the machine that builds the cache.
    """
    from distributed import get_worker

    here = versions()
    other = [f"{name} {here[name]}, not {job.decoding[name]}" for name in here if here[name] != job.decoding[name]]
    if other:
        raise ClipBertError(
            f"dask worker {get_worker().address} has {', '.join(other)}: its frames could differ. Install the same "
            "versions there."
        )
    try:
        return _decoder(limits).run(job)
    except SourceError as error:
        raise SourceError(
            f"dask worker {get_worker().address}: {error}\nEvery worker needs the files: mount the project's folder "
            "under the same path there, or set frames.media_url."
        ) from error


_lock = threading.Lock()


def _decoder(limits: Limits) -> LocalExecutor:
    with _lock:  # a dask worker runs its tasks in threads
        return _make_decoder(limits)


@functools.lru_cache(maxsize=1)
def _make_decoder(limits: Limits) -> LocalExecutor:
    """Return the process pool of this dask worker, one process per thread; it lives as long as the worker."""
    from distributed import get_worker

    worker = get_worker()
    pool = KillablePool(worker.state.nthreads, limits.timeout_s, limits.max_worker_mb)
    return LocalExecutor(pool, limits.timeout_s, worker.local_directory)


class DaskExecutor:
    """Executor on the workers of a scheduler; dask gives the jobs of a worker that dies to others.

    Attributes:
        command: that the user runs again after a failure of the cluster.
    """

    def __init__(self, client: Any, params: FramesParams, command: str = "clipbert frames") -> None:
        self.client, self.command = client, command
        self.address = params.executor
        self.limits = Limits(params.timeout_s, params.max_worker_mb)
        self._counted = -POLL_S
        self._known_threads = 0

    def imap(self, jobs: Iterable[Job]) -> Iterator[tuple[Job, Outcome]]:
        return self.map(decode_there, jobs, lambda job: job.media, self.limits)

    def map(
        self, function: Callable[..., Any], items: Iterable[Item], name: Callable[[Item], str], *arguments: Any
    ) -> Iterator[tuple[Item, Any]]:
        """Yield each item with function(item, *arguments) of a worker, in order; a bounded number runs at a time.

        Args:
            name: of an item, for messages.

        Raises:
            ClipBertError: the connection is lost, there are no workers, or they die or lack packages.
        """
        pending: collections.deque[tuple[Item, Any]] = collections.deque()
        try:
            for item in items:
                pending.append((item, self.client.submit(function, item, *arguments, pure=False, retries=0)))
                if len(pending) >= IN_FLIGHT_PER_THREAD * max(1, self._threads()):
                    yield self._settle(*pending.popleft(), name)
            while pending:
                yield self._settle(*pending.popleft(), name)
        finally:
            for _, future in pending:
                future.cancel()

    def run(self, job: Job) -> Outcome:
        return next(self.imap([job]))[1]

    def _threads(self) -> int:
        if time.monotonic() - self._counted >= POLL_S:
            try:
                self._known_threads = sum(self.client.nthreads().values())
            except (OSError, ValueError) as error:  # a client that has closed raises ValueError
                raise self._lost(error) from error
            self._counted = time.monotonic()
        return self._known_threads

    def _settle(self, job: Item, future: Any, name: Callable[[Item], str]) -> tuple[Item, Any]:
        """Wait for a job while the scheduler has workers.

        Raises:
            ClipBertError: the connection to the scheduler is lost, or it has no workers for too long.
        """
        from distributed import KilledWorker
        from distributed.client import FutureCancelledError

        alone_since: float | None = None
        while True:
            try:
                if self._ended(future):
                    return job, future.result(timeout=RESULT_S)
            except KilledWorker as error:
                raise ClipBertError(
                    f"{name(job)}: several dask workers died while decoding it ({error}). Look at their "
                    "logs: most often their memory limit is below frames.max_worker_mb times their threads."
                ) from error
            except ImportError as error:
                raise ClipBertError(
                    f"{self.address}: its workers cannot import what they need ({error}). Install clipbert[cluster] "
                    "there, the same version as here."
                ) from error
            except (OSError, FutureCancelledError) as error:
                raise self._lost(error) from error
            if self._threads():
                alone_since = None
            elif alone_since is None:
                alone_since = time.monotonic()
                console.print(f"{self.command.split()[-1]}: {self.address} has no workers; waiting for one")
            elif time.monotonic() - alone_since > NO_WORKERS_S:
                raise _no_workers(self.address, NO_WORKERS_S)

    def _ended(self, future: Any) -> bool:
        ended = threading.Event()
        future.add_done_callback(lambda _: ended.set())
        if ended.wait(POLL_S):
            return True
        if self.client.status != "running":
            raise ConnectionError(f"client {self.client.status}")
        return False

    def _lost(self, error: Exception) -> ClipBertError:
        return ClipBertError(
            f"{self.address}: the connection to the scheduler was lost ({type(error).__name__}: {error}). What was "
            f"decoded is kept; start the scheduler and rerun: {self.command}"
        )


def _no_workers(address: str, seconds: float) -> ClipBertError:
    return ClipBertError(
        f"{address}: the scheduler has had no workers for {seconds:g} s. Start some: dask worker "
        f"{address.removeprefix('dask://')}. What was decoded is kept for the next run."
    )


@contextlib.contextmanager
def open_cluster(
    params: FramesParams, connect_s: float = CONNECT_S, command: str = "clipbert frames"
) -> Iterator[DaskExecutor]:
    """Connect to the scheduler that `frames.executor` names, and wait for the first worker.

    Args:
        command: that the user runs again after a failure of the cluster.

    Raises:
        ClipBertError: dask is not installed, the scheduler does not answer, or no worker connects within `connect_s`
            seconds.
    """
    try:
        from distributed import Client
    except ImportError as error:
        raise ClipBertError(
            f"frames.executor = {params.executor}: dask is not installed. Run: pip install 'clipbert[cluster]'"
        ) from error
    address = params.executor.removeprefix("dask://")
    try:
        client = Client(f"tcp://{address}", timeout=connect_s, set_as_default=False, direct_to_workers=True)
    except (OSError, TimeoutError, ValueError) as error:
        raise ClipBertError(
            f"{params.executor}: no dask scheduler answers ({type(error).__name__}). Start one (dask scheduler "
            "--port PORT), or set frames.executor to local."
        ) from error
    with client:
        try:
            client.wait_for_workers(1, timeout=connect_s)
        except TimeoutError as error:
            raise _no_workers(params.executor, connect_s) from error
        yield DaskExecutor(client, params, command)
