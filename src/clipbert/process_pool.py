"""Process pool for native code that may hang or crash: each job has a time and a memory limit and fails alone.

`concurrent.futures.ProcessPoolExecutor` cannot stop a running job, and one crash breaks the whole pool. A worker is a
fresh interpreter (fork and exec, safe with torch's threads) that does not import the caller's `__main__`; jobs and
results are sent over a socket. A worker exits with its parent, even if the parent is killed.
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
# The hard limit of a worker's memory is twice the soft one, and at least a GiB more: libraries map more than they use.
GUARD_SLACK_MB = 1024
IN_FLIGHT_PER_WORKER = 4
STDERR_BYTES = 500
PR_SET_PDEATHSIG = 1
SECONDS_AT_BASE, BYTES_AT_BASE = 60.0, 10e6
BOOTSTRAP = (
    "import sys; sys.path[:] = sys.argv[4:]; from clipbert.process_pool import serve; serve(*map(int, sys.argv[1:4]))"
)

Item = TypeVar("Item")


class WorkerError(Exception):
    """Job without a result, or with one that cannot be sent between processes."""


class WorkerTimeout(WorkerError):
    """Job that exceeded its time limit; its process was killed."""


class WorkerMemory(WorkerError):
    """Job that exceeded its memory limit; its process was killed."""


class WorkerDied(WorkerError):
    """Job that ended with its process: a crash, the out-of-memory killer or an exit."""


def time_limit(timeout_s: float, duration_s: float = 0.0, size: int = 0) -> float:
    """Return the time limit of a job on one file: `timeout_s` for up to a minute of video, in proportion above.

    Args:
        timeout_s: seconds for a video of up to a minute.
        duration_s: duration of the video in seconds; 0 if unknown.
        size: size of the file in bytes, of which 10 MB count as a minute (1.3 Mbit/s); 0 if the duration is known.
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
    """Worker process and the parent's end of its socket; used by one thread."""

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
        """Run a job and return (True, value) or (False, exception).

        The start of the process and its imports do not count as time of the job.
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
                raise WorkerMemory(f"{job.name}: {self._over()}: an allocation failed: {how}") from error
            raise WorkerDied(f"{job.name}: the worker process {how}") from error
        if self.max_mb is not None and isinstance(value, MemoryError):
            raise WorkerMemory(f"{job.name}: {self._over()}: an allocation failed") from value
        return good, value

    def _wait(self, job: _Job) -> None:
        """Wait for the result of a job while checking its time and the memory of the process."""
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
        """Return the resident memory of the process in MiB; 0 without /proc or if the process has exited."""
        try:
            with open(f"/proc/{self.process.pid}/statm", "rb") as file:
                return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / MIB
        except (OSError, IndexError):
            return 0.0

    def is_reusable(self) -> bool:
        """Return whether the process is alive and uses at most half of its memory limit."""
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
        self.stderr.seek(max(0, os.fstat(self.stderr.fileno()).st_size - STDERR_BYTES))
        words = self.stderr.read().decode(errors="replace").strip()
        return f"{how}: {words}" if words else how

    def kill(self) -> None:
        self.process.kill()

    def close(self) -> None:
        """Kill and reap the process; one that is stuck in the kernel, as on a dead network disk, is not waited for."""
        self.process.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(timeout=5)
        self.pipe.close()
        self.stderr.close()


class KillablePool(concurrent.futures.Executor):
    """Executor that runs importable top-level functions in long-lived processes with a time and a memory limit.

    - A job over `timeout_s` is killed with SIGKILL, even in native code that holds the GIL. Its process is replaced
      and its future raises `WorkerTimeout`.
    - A process with more than `max_worker_mb` MiB of resident memory, checked ten times a second, is killed
      (`WorkerMemory`). A single larger allocation fails in the process itself, whose hard limit is twice as high and at
      least a GiB higher, with the same exception.
    - A process that dies gives `WorkerDied` with the signal or exit code and the end of its stderr.
    - An exception of the function is raised as it is if it can be pickled, else as `WorkerError`.
    - A process starts when a job finds the others busy, and ends after `idle_s` seconds without a job.

    Other jobs are not affected. Output of jobs is discarded; only the parent handles Ctrl-C.

    It differs from the executors of the standard library in two ways: leaving the `with` block on an exception kills
    running jobs instead of waiting for them, and a pool that is not shut down ends with its process without finishing
    its jobs.
    """

    def __init__(
        self, workers: int, timeout_s: float, max_worker_mb: int | None = None, idle_s: float | None = None
    ) -> None:
        if workers < 1:
            raise ValueError(f"workers: {workers}; expected at least 1")
        if max_worker_mb is not None and max_worker_mb < 1:
            raise ValueError(f"max_worker_mb: {max_worker_mb}; expected a positive number of MiB")
        self._check_time(timeout_s)
        self.workers = workers
        self.timeout_s = timeout_s
        self.max_worker_mb = max_worker_mb
        self.idle_s = idle_s
        self._unfinished = 0
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._running: set[_Worker] = set()
        self._lock = threading.Lock()
        self._closed = False
        self._killed = False

    @staticmethod
    def _check_time(timeout_s: float) -> None:
        if not 0 < timeout_s < math.inf:
            raise ValueError(f"timeout_s: {timeout_s}; expected a positive number of seconds")

    def submit(  # type: ignore[override]
        self, fn: Callable[..., Any], /, *args: Any, timeout_s: float | None = None, fresh: bool = False, **kwargs: Any
    ) -> Future[Any]:
        """Queue fn(*args, **kwargs); the queue is unbounded (`imap` bounds it).

        Args:
            fn: an importable top-level function.
            *args: its positional arguments.
            timeout_s: the time limit of this job in seconds instead of the pool's.
            fresh: run the job in a new process.
            **kwargs: its keyword arguments.

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
            self._unfinished += 1
            if len(self._threads) < min(self.workers, self._unfinished):
                thread = threading.Thread(target=self._drive, name=f"worker-{len(self._threads)}", daemon=True)
                self._threads.append(thread)
                thread.start()
        return job.future

    def imap(
        self, fn: Callable[[Item], Any], items: Iterable[Item], limit: Callable[[Item], float] | None = None
    ) -> Iterator[tuple[Item, Future[Any]]]:
        """Yield (item, finished future of fn(item)) in the order of `items`.

        `items` is read on demand with at most 4 unread jobs per worker, so memory stays constant; `map`, as in the
        standard library, submits all items at once.

        Args:
            fn: an importable top-level function.
            items: the arguments of the jobs.
            limit: returns the time limit of an item in seconds; None uses the pool's.
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
        """Reject new jobs, finish the queued ones (or cancel them with `cancel_futures`), then stop the processes."""
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
        """Stop now: cancel queued jobs and kill running ones, whose futures raise `WorkerDied`."""
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
                    # without this, `wait` and `as_completed` would wait for a cancelled future forever
                    job.future.set_running_or_notify_cancel()

    def _drive(self) -> None:
        """Run the jobs of one worker; the kernel kills the worker when this thread ends."""
        worker: _Worker | None = None
        while True:
            try:
                job = self._jobs.get(timeout=None if worker is None else self.idle_s)
            except queue.Empty:
                self._forget(worker)
                worker = None
                continue
            if job is None:
                break
            if not job.future.set_running_or_notify_cancel():
                self._finish()
                continue
            try:
                if worker is None or job.fresh or not worker.is_reusable():
                    self._forget(worker)
                    worker = self._start()
                good, value = worker.run(job)
            except BaseException as error:
                self._forget(worker)
                worker = None
                good, value = False, error
            self._finish()
            if good:
                job.future.set_result(value)
            else:
                job.future.set_exception(value)
            del job, value
        self._forget(worker)

    def _finish(self) -> None:
        with self._lock:
            self._unfinished -= 1

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
    """Run the jobs of a worker process until the parent closes the socket or dies.

    Args:
        descriptor: the worker's end of the socket.
        parent: process id of the parent.
        max_data_mb: hard limit of private memory in MiB, without shared libraries and page cache; 0: no limit.
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
