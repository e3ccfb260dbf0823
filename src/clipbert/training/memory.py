"""Memory of a training: reuse of freed blocks, detection of out-of-memory errors, and advice against them."""

import contextlib
import ctypes
import gc
import os
import sys
from collections.abc import Iterator
from typing import Any

import torch

from clipbert.config.training import TrainParams

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of glibc's malloc.h
NEVER = -1
MMAP_MAX, TRIM_THRESHOLD = 65_536, 128 * 1024  # defaults of glibc
CACHE_CAPACITY, CACHED_OPERATIONS = "ONEDNN_PRIMITIVE_CACHE_CAPACITY", 256
OUT_OF_MEMORY = (
    "can't allocate memory",
    "not enough memory",
    "out of memory",
    "cannot allocate memory",
    "could not create a primitive",  # oneDNN without memory for its buffers
)


def keep_freed_memory() -> bool:
    """Make the C library keep freed blocks instead of returning them to the system after each operation.

    Otherwise each large tensor on a CPU is mapped and zeroed page by page when it is created, which costs a noticeable
    part of a training step (docs/concepts/performance.md). The process stays as large as its largest step. Tensors on a
    GPU are not affected.

    Returns:
        Whether the C library is glibc and accepted the settings.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):  # another C library
        return False
    return bool(mallopt(M_MMAP_MAX, 0)) and bool(mallopt(M_TRIM_THRESHOLD, NEVER))


def limit_cached_operations() -> None:
    """Let oneDNN keep the compiled operations of 256 shapes instead of 1,024.

    Each costs megabytes, and packed texts give nearly every step a shape of its own, so the process would grow by
    gigabytes. The backbones have fewer shapes than 256. It must be called before the first operation of the process; a
    value of the user in the environment stays.
    """
    os.environ.setdefault(CACHE_CAPACITY, str(CACHED_OPERATIONS))


@contextlib.contextmanager
def freed_memory_kept(device: torch.device) -> Iterator[None]:
    """Apply `keep_freed_memory` in this context if the device is a CPU; afterwards restore the defaults of glibc and
    release free memory."""
    if device.type != "cpu" or not keep_freed_memory():
        yield
        return
    try:
        yield
    finally:
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(M_MMAP_MAX, MMAP_MAX)
        mallopt(M_TRIM_THRESHOLD, TRIM_THRESHOLD)
        release_memory(device)


def release_memory(device: torch.device) -> None:
    """Return freed blocks to the system, so that other allocators can use them, such as oneDNN's on a CPU."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    elif sys.platform.startswith("linux"):
        with contextlib.suppress(AttributeError):
            ctypes.CDLL(None).malloc_trim(0)


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error means that the device or the machine is out of memory."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    message = str(error).lower()
    return isinstance(error, RuntimeError | OSError) and any(text in message for text in OUT_OF_MEMORY)


def advice(params: TrainParams, config: Any) -> str:
    """Return the changes of params.yaml that about halve the memory, with present values, the cheapest first.

    Args:
        config: the model's configuration.
    """
    changes = []
    if not params.auto_microbatch:
        changes.append("train.auto_microbatch to true (now false): the same step in micro-batches")
    if not params.activation_checkpointing:
        changes.append("train.activation_checkpointing to true (now false): the same step, about a third slower")
    if params.batch_size > 1:
        half, twice = params.batch_size // 2, params.gradient_accumulation_steps * 2
        changes.append(
            f"train.batch_size to {half} (now {params.batch_size}) with train.gradient_accumulation_steps {twice} (now "
            f"{params.gradient_accumulation_steps})"
        )
    for name in ("clips", "frames_per_clip"):
        if getattr(config, name) > 1:
            changes.append(f"model.{name} to {getattr(config, name) // 2} (now {getattr(config, name)})")
    changes.append(f"model.image_size to {_half_the_pixels(config.image_size)} (now {config.image_size})")
    return "To reduce memory, set one of these, the smallest change first: " + "; ".join(changes) + "."


def _half_the_pixels(size: int) -> int:
    """Return the side of a square with about half the pixels, a multiple of 32."""
    return max(32, round(size / 2**0.5 / 32) * 32)
