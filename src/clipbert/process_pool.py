"""Jobs in processes that can be killed: native code that hangs or crashes takes down its own job and nothing else.

`concurrent.futures.ProcessPoolExecutor` is of no use here: it cannot stop a running job, and one crash breaks the whole
pool. A worker is a fresh interpreter (fork and exec, safe beside torch's threads) that imports nothing of the caller's
`__main__`; jobs and results travel over a socket. A worker dies with its parent, even when the parent is killed.
"""

import collections
import concurrent.futures
import contextlib
import ctypes
import math
import os
import pickle
import queue
import resource
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from multiprocessing.connection import Connection, Pipe
from typing import Any, TypeVar

START_S = 120.0
MEMORY_POLL_S = 0.1
MIB = 2**20
# Between two looks at a worker's memory it may take as much again, and a GiB at least: libraries map more than is used.
GUARD_SLACK_MB = 1024
IN_FLIGHT_PER_WORKER = 4
LAST_WORDS = 500
PR_SET_PDEATHSIG = 1
SECONDS_AT_BASE, BYTES_AT_BASE = 60.0, 10e6
BOOTSTRAP = (
    "import sys; sys.path[:] = sys.argv[4:]; from clipbert.process_pool import serve; serve(*map(int, sys.argv[1:4]))"
)

Item = TypeVar("Item")


class WorkerError(Exception):
    """A job that gave no result of its own, or one that cannot travel between processes."""


class WorkerTimeout(WorkerError):
    """A job ran over its time; its process was killed."""


class WorkerMemory(WorkerError):
    """A job needed more memory than it may have; its process was killed."""


class WorkerDied(WorkerError):
    """The process of a job ended before the job did: a crash, the out-of-memory killer, an exit."""


def time_limit(timeout_s: float, duration_s: float = 0.0, size: int = 0) -> float:
    """The seconds a job on one file may take: `timeout_s` for a file of up to a minute, in proportion for longer ones.

    Where the duration is not known yet, 10 MB count as a minute (1.3 Mbit/s).

    Args:
        duration_s: of the video in seconds; 0 when unknown.
        size: of the file in bytes; 0 when its duration is known.
    """
    return timeout_s * max(1.0, duration_s / SECONDS_AT_BASE, size / BYTES_AT_BASE)


@dataclass
class _Job:
    future: Future[Any]
    name: str
    payload: bytes
    timeout_s: float
    fresh: bool


class _Worker:
    """One process and our end of its socket; used by one thread."""

    def __init__(self, max_mb: int | None) -> None:
        self.max_mb = max_mb
        self.pipe, theirs = Pipe()
        self.stderr = tempfile.TemporaryFile()  # noqa: SIM115
        with theirs:
            guard = 0 if max_mb is None else max_mb + max(max_mb, GUARD_SLACK_MB)
            numbers = map(str, (theirs.fileno(), os.getpid(), guard))
            command = [sys.executable, "-c", BOOTSTRAP, *numbers, *sys.path]
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=self.stderr,
                stderr=self.stderr,
                pass_fds=[theirs.fileno()],
            )

    def run(self, job: _Job) -> tuple[bool, Any]:
        """Send a job and wait for its outcome: (True, value) or (False, exception).

        Starting and importing do not count as the job's time.
        """
        try:
            self.pipe.send_bytes(job.payload)
            if not self.pipe.poll(START_S):
                raise WorkerTimeout(f"{job.name}: the worker process did not start within {START_S:g} s")
            self.pipe.recv_bytes()
            self._wait(job)
            good, value = pickle.loads(self.pipe.recv_bytes())
        except (EOFError, OSError) as error:
            how = self._end()
            if self.max_mb is not None and "bad_alloc" in how:
                raise WorkerMemory(f"{job.name}: {self._over()}, for an allocation failed: {how}") from error
            raise WorkerDied(f"{job.name}: the worker process {how}") from error
        if self.max_mb is not None and isinstance(value, MemoryError):
            raise WorkerMemory(f"{job.name}: {self._over()}, for an allocation failed") from value
        return good, value

    def _wait(self, job: _Job) -> None:
        """Wait for the job's answer, with an eye on the clock and on the process's memory."""
        end = time.monotonic() + job.timeout_s
        step = math.inf if self.max_mb is None else MEMORY_POLL_S
        while not self.pipe.poll(max(0.0, min(step, end - time.monotonic()))):
            if self.max_mb is not None and self.resident_mb() > self.max_mb:
                raise WorkerMemory(f"{job.name}: {self._over()} and was killed")
            if time.monotonic() >= end:
                raise WorkerTimeout(f"{job.name}: took longer than {job.timeout_s:g} s and was killed")

    def _over(self) -> str:
        return f"needed more than {self.max_mb} MB of memory"

    def resident_mb(self) -> float:
        """Memory the process holds, in MiB; 0 where there is no /proc, or no process any more."""
        try:
            with open(f"/proc/{self.process.pid}/statm", "rb") as file:
                return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / MIB
        except (OSError, IndexError):
            return 0.0

    def fit(self) -> bool:
        """Whether the next job gets a sound process: one that lives and has not kept half of what it may hold."""
        return self.process.poll() is None and (self.max_mb is None or self.resident_mb() <= self.max_mb / 2)

    def _end(self) -> str:
        try:
            code = self.process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            return "closed its pipe"
        try:
            how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        except ValueError:
            how = f"was killed by signal {-code}"
        self.stderr.seek(max(0, os.fstat(self.stderr.fileno()).st_size - LAST_WORDS))
        words = self.stderr.read().decode(errors="replace").strip()
        return f"{how}: {words}" if words else how

    def kill(self) -> None:
        self.process.kill()

    def close(self) -> None:
        """Kill and reap the process; one stuck in the kernel (a dead network disk) is left behind."""
        self.process.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(timeout=5)
        self.pipe.close()
        self.stderr.close()


class KillablePool(concurrent.futures.Executor):
    """Run importable top-level functions in `workers` long-lived processes, each job at most `timeout_s` seconds.

    A job over its time is killed with SIGKILL, so it ends even in native code that holds the GIL; its process is
    replaced and its future raises `WorkerTimeout`. A process that holds more than `max_worker_mb` MiB of resident
    memory, looked at ten times a second, is killed likewise (`WorkerMemory`); a single huge allocation between two
    looks fails in the process itself, which has a limit of its own at twice that (and a GiB above at least), with the
    same `WorkerMemory`. A process that dies gives `WorkerDied` with the signal or exit code and the end of what it
    wrote to stderr. An exception of the function arrives as itself when it can be pickled, else as `WorkerError`. Other
    jobs never notice. What jobs print is dropped; Ctrl-C is the parent's business.

    Otherwise it is a `concurrent.futures.Executor` like those of the standard library, but for two things: leaving the
    `with` block on an exception kills what runs instead of waiting for it, and a pool that is never shut down ends with
    its process, without finishing its jobs.
    """

    def __init__(self, workers: int, timeout_s: float, max_worker_mb: int | None = None) -> None:
        if workers < 1:
            raise ValueError(f"workers: {workers}; at least 1 is needed")
        if max_worker_mb is not None and max_worker_mb < 1:
            raise ValueError(f"max_worker_mb: {max_worker_mb}; a positive number of MiB is needed")
        self._check_time(timeout_s)
        self.workers = workers
        self.timeout_s = timeout_s
        self.max_worker_mb = max_worker_mb
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._running: set[_Worker] = set()
        self._lock = threading.Lock()
        self._closed = False
        self._killed = False

    @staticmethod
    def _check_time(timeout_s: float) -> None:
        if not 0 < timeout_s < math.inf:
            raise ValueError(f"timeout_s: {timeout_s}; a positive number of seconds is needed")

    def submit(  # type: ignore[override]
        self, fn: Callable[..., Any], /, *args: Any, timeout_s: float | None = None, fresh: bool = False, **kwargs: Any
    ) -> Future[Any]:
        """Queue fn(*args, **kwargs); the queue has no bound (`imap` has one).

        Args:
            timeout_s: this job's own limit in seconds instead of the pool's; not passed on.
            fresh: give the job a process that has run nothing before; not passed on.

        Raises:
            RuntimeError: the pool is shut down.
            pickle.PicklingError: fn is not an importable top-level function, or an argument cannot be pickled.
        """
        limit = self.timeout_s if timeout_s is None else timeout_s
        self._check_time(limit)
        name = getattr(fn, "__qualname__", None) or repr(fn)
        job = _Job(Future(), name, pickle.dumps((fn, args, kwargs), pickle.HIGHEST_PROTOCOL), limit, fresh)
        with self._lock:
            if self._closed:
                raise RuntimeError("the pool is shut down")
            self._jobs.put(job)
            if len(self._threads) < self.workers:
                thread = threading.Thread(target=self._drive, name=f"worker-{len(self._threads)}", daemon=True)
                self._threads.append(thread)
                thread.start()
        return job.future

    def imap(
        self, fn: Callable[[Item], Any], items: Iterable[Item], limit: Callable[[Item], float] | None = None
    ) -> Iterator[tuple[Item, Future[Any]]]:
        """Yield (item, finished future of fn(item)) in the order of `items`, however many there are.

        `items` is read as needed and at most 4 jobs a worker are under way or unread, so memory stays flat; `map`, as
        in the standard library, takes all its items at once.

        Args:
            limit: an item's own time limit in seconds; without it, the pool's.
        """
        pending: collections.deque[tuple[Item, Future[Any]]] = collections.deque()
        try:
            for item in items:
                pending.append((item, self.submit(fn, item, timeout_s=None if limit is None else limit(item))))
                if len(pending) >= IN_FLIGHT_PER_WORKER * self.workers:
                    concurrent.futures.wait([pending[0][1]])
                    yield pending.popleft()
            while pending:
                concurrent.futures.wait([pending[0][1]])
                yield pending.popleft()
        finally:
            for _, future in pending:
                future.cancel()

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more jobs; finish (or with `cancel_futures` drop) those queued, then end the processes."""
        with self._lock:
            self._closed = True
            if cancel_futures:
                self._drop_queued()
            for _ in self._threads:
                self._jobs.put(None)
        if wait:
            for thread in self._threads:
                thread.join()

    def kill(self) -> None:
        """End now: queued futures are cancelled, running jobs killed (their futures raise `WorkerDied`)."""
        with self._lock:
            self._closed = self._killed = True
            self._drop_queued()
            for worker in self._running:
                worker.kill()
        self.shutdown()

    def __exit__(self, exc_type: object, exc_value: object, exc_traceback: object) -> None:
        if exc_type is None:
            self.shutdown()
        else:
            self.kill()

    def _drop_queued(self) -> None:
        with contextlib.suppress(queue.Empty):
            while True:
                job = self._jobs.get_nowait()
                if job is not None and job.future.cancel():
                    # without this, `wait` and `as_completed` would wait for a cancelled future for ever
                    job.future.set_running_or_notify_cancel()

    def _drive(self) -> None:
        """One thread a worker, for the worker's whole life: the kernel kills the worker when this thread ends."""
        worker: _Worker | None = None
        while (job := self._jobs.get()) is not None:
            if not job.future.set_running_or_notify_cancel():
                continue
            try:
                if worker is None or job.fresh or not worker.fit():
                    self._forget(worker)
                    worker = self._start()
                good, value = worker.run(job)
            except BaseException as error:
                self._forget(worker)
                worker = None
                good, value = False, error
            if good:
                job.future.set_result(value)
            else:
                job.future.set_exception(value)
            del job, value
        self._forget(worker)

    def _start(self) -> _Worker:
        with self._lock:
            if self._killed:
                raise WorkerDied("the pool was killed")
            worker = _Worker(self.max_worker_mb)
            self._running.add(worker)
        return worker

    def _forget(self, worker: _Worker | None) -> None:
        if worker is not None:
            with self._lock:
                self._running.discard(worker)
            worker.close()


def serve(descriptor: int, parent: int, max_data_mb: int) -> None:
    """The main function of a worker process: answer jobs until the parent closes the socket or dies.

    Args:
        max_data_mb: private memory it may map, in MiB; 0: no limit. Shared libraries and page cache do not count.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if max_data_mb:
        most = resource.getrlimit(resource.RLIMIT_DATA)[1]
        wanted = max_data_mb * MIB if most == resource.RLIM_INFINITY else min(max_data_mb * MIB, most)
        resource.setrlimit(resource.RLIMIT_DATA, (wanted, most))
    with Connection(descriptor) as pipe, contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError):
        while True:
            payload = pipe.recv_bytes()
            os.lseek(2, 0, os.SEEK_SET)
            os.ftruncate(2, 0)
            pipe.send_bytes(_answer(payload, lambda: pipe.send_bytes(b"started")))
    os._exit(0)


def _answer(payload: bytes, started: Callable[[], None]) -> bytes:
    try:
        try:
            fn, args, kwargs = pickle.loads(payload)
        finally:
            started()
        outcome = (True, fn(*args, **kwargs))
        return _pickled(outcome)
    except Exception as error:
        error.add_note("In the worker process:\n" + "".join(traceback.format_exception(error)).rstrip())
        try:
            answer = _pickled((False, error))
            pickle.loads(answer)
        except Exception:
            return _pickled((False, WorkerError(f"{type(error).__name__}: {error}")))
        return answer


def _pickled(outcome: tuple[bool, Any]) -> bytes:
    return pickle.dumps(outcome, pickle.HIGHEST_PROTOCOL)
