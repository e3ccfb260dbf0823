"""Decoder processes that stay between calls: starting one and importing its libraries takes half a second and more.

A process that hangs, crashes or needs too much memory is killed and replaced; the other calls do not notice.
"""

import os
import threading
from concurrent.futures import Future
from typing import Any

import clipbert.sampling.candidates  # noqa: F401
from clipbert.process_pool import KillablePool

MOST_DECODERS = 4
IDLE_S = 300.0  # after which a process that decodes nothing ends
START_TIMEOUT_S = 120.0

_lock = threading.Lock()
_workers: int | None = None
_pools: dict[int, KillablePool] = {}


def decoder_pool(max_worker_mb: int) -> KillablePool:
    """Return the decoder processes of this process with a memory limit, which are started when they are needed."""
    with _lock:
        if max_worker_mb not in _pools:
            workers = _workers or max(1, min(MOST_DECODERS, len(os.sched_getaffinity(0))))
            _pools[max_worker_mb] = KillablePool(workers, START_TIMEOUT_S, max_worker_mb, idle_s=IDLE_S)
        return _pools[max_worker_mb]


def limit_decoders(workers: int) -> None:
    """Set how many processes decode at one time, before the first file; by default one for each core, at most four."""
    global _workers
    _workers = workers


def start_decoder(max_worker_mb: int) -> Future[Any]:
    """Start a decoder process ahead of the first file, and return without waiting for it."""
    return decoder_pool(max_worker_mb).submit(load_decoders)


def load_decoders() -> None:
    """Import the libraries that decode files; those of `decode_file` come with this module."""
    import av  # noqa: F401


def stop_decoders() -> None:
    """End all decoder processes; the next file starts one again."""
    with _lock:
        pools = list(_pools.values())
        _pools.clear()
    for pool in pools:
        pool.kill()


def _forget_in_child() -> None:
    """Drop the pools of the parent after a fork: their threads and sockets are the parent's."""
    global _lock
    _lock = threading.Lock()
    _pools.clear()


os.register_at_fork(after_in_child=_forget_in_child)
