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
IN_FLIGHT_PER_WORKER = 4
LAST_WORDS = 500
PR_SET_PDEATHSIG = 1
BOOTSTRAP = (
    "import sys; sys.path[:] = sys.argv[3:]; from clipbert.workers import serve; serve(*map(int, sys.argv[1:3]))"
)

Item = TypeVar("Item")


class WorkerError(Exception):
    """A job that gave no result of its own, or one that cannot travel between processes."""


class WorkerTimeout(WorkerError):
    """A job ran over its time; its process was killed."""


class WorkerDied(WorkerError):
    """The process of a job ended before the job did: a crash, the out-of-memory killer, an exit."""


@dataclass
class _Job:
    future: Future[Any]
    name: str
    payload: bytes
    timeout_s: float


class _Worker:
    """One process and our end of its socket; used by one thread."""

    def __init__(self) -> None:
        self.pipe, theirs = Pipe()
        self.stderr = tempfile.TemporaryFile()  # noqa: SIM115
        with theirs:
            command = [sys.executable, "-c", BOOTSTRAP, str(theirs.fileno()), str(os.getpid()), *sys.path]
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
            if not self.pipe.poll(job.timeout_s):
                raise WorkerTimeout(f"{job.name}: took longer than {job.timeout_s:g} s and was killed")
            outcome = self.pipe.recv_bytes()
        except (EOFError, OSError) as error:
            raise WorkerDied(f"{job.name}: the worker process {self._end()}") from error
        return pickle.loads(outcome)

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

    def alive(self) -> bool:
        return self.process.poll() is None

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
    replaced and its future raises `WorkerTimeout`. A process that dies gives `WorkerDied` with the signal or exit code
    and the end of what it wrote to stderr. An exception of the function arrives as itself when it can be pickled, else
    as `WorkerError`. Other jobs never notice. What jobs print is dropped; Ctrl-C is the parent's business.

    Leaving the `with` block on an exception kills what runs; otherwise it waits. A pool that is never shut down ends
    with its process, without finishing its jobs.
    """

    def __init__(self, workers: int, timeout_s: float) -> None:
        if workers < 1:
            raise ValueError(f"workers: {workers}; at least 1 is needed")
        self._check_time(timeout_s)
        self.workers = workers
        self.timeout_s = timeout_s
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
        self, fn: Callable[..., Any], /, *args: Any, timeout_s: float | None = None, **kwargs: Any
    ) -> Future[Any]:
        """Queue fn(*args, **kwargs); the queue has no bound (`imap` has one).

        Args:
            timeout_s: this job's own limit in seconds instead of the pool's.

        Raises:
            RuntimeError: the pool is shut down.
            pickle.PicklingError: fn is not an importable top-level function, or an argument cannot be pickled.
        """
        limit = self.timeout_s if timeout_s is None else timeout_s
        self._check_time(limit)
        name = getattr(fn, "__qualname__", None) or repr(fn)
        job = _Job(Future(), name, pickle.dumps((fn, args, kwargs), pickle.HIGHEST_PROTOCOL), limit)
        with self._lock:
            if self._closed:
                raise RuntimeError("the pool is shut down")
            self._jobs.put(job)
            if len(self._threads) < self.workers:
                thread = threading.Thread(target=self._drive, name=f"worker-{len(self._threads)}", daemon=True)
                self._threads.append(thread)
                thread.start()
        return job.future

    def imap(self, fn: Callable[[Item], Any], items: Iterable[Item]) -> Iterator[tuple[Item, Future[Any]]]:
        """Yield (item, finished future of fn(item)) in the order of `items`, however many there are.

        `items` is read as needed and at most 4 jobs a worker are under way or unread, so memory stays flat.
        """
        pending: collections.deque[tuple[Item, Future[Any]]] = collections.deque()
        try:
            for item in items:
                pending.append((item, self.submit(fn, item)))
                if len(pending) >= IN_FLIGHT_PER_WORKER * self.workers:
                    concurrent.futures.wait([pending[0][1]])
                    yield pending.popleft()
            while pending:
                concurrent.futures.wait([pending[0][1]])
                yield pending.popleft()
        finally:
            for _, future in pending:
                future.cancel()

    def map(
        self, fn: Callable[..., Any], *iterables: Iterable[Any], timeout: float | None = None, chunksize: int = 1
    ) -> Iterator[Any]:
        """Yield fn(*arguments) in order, raising a job's exception in its place; bounded as `imap`.

        Args:
            timeout: seconds the whole iteration may take, counted from its first step.
            chunksize: taken for the sake of `Executor.map`; every job is sent alone.
        """
        end = math.inf if timeout is None else time.monotonic() + timeout
        for _, future in self.imap(_Star(fn), zip(*iterables, strict=False)):
            if time.monotonic() > end:
                raise TimeoutError(f"map took longer than {timeout:g} s")
            yield future.result()

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
                if job is not None:
                    job.future.cancel()

    def _drive(self) -> None:
        """One thread a worker, for the worker's whole life: the kernel kills the worker when this thread ends."""
        worker: _Worker | None = None
        while (job := self._jobs.get()) is not None:
            if not job.future.set_running_or_notify_cancel():
                continue
            try:
                if worker is None or not worker.alive():
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
            worker = _Worker()
            self._running.add(worker)
        return worker

    def _forget(self, worker: _Worker | None) -> None:
        if worker is not None:
            with self._lock:
                self._running.discard(worker)
            worker.close()


@dataclass
class _Star:
    """fn called with an unpacked tuple, as something that can be pickled."""

    fn: Callable[..., Any]

    def __call__(self, arguments: tuple[Any, ...]) -> Any:
        return self.fn(*arguments)


def serve(descriptor: int, parent: int) -> None:
    """The main function of a worker process: answer jobs until the parent closes the socket or dies."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
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
