"""Memory of a training: freed blocks kept for the next step, how a lack of it is told, and what needs less."""

import contextlib
import ctypes
import gc
import sys
from collections.abc import Iterator
from typing import Any

import torch

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of glibc's malloc.h
NEVER = -1
MMAP_MAX, TRIM_THRESHOLD = 65_536, 128 * 1024  # glibc's own
SHORTAGES = (
    "can't allocate memory",
    "not enough memory",
    "out of memory",
    "cannot allocate memory",
    "could not create a primitive",  # oneDNN's, when it finds no memory for its own buffers
)


def keep_freed_memory() -> bool:
    """Have the C library keep freed blocks instead of returning them to the system after each operation.

    Large tensors on a CPU are otherwise mapped anew, and so zeroed page by page, each time one is made, which
    costs a noticeable part of a training step (docs/concepts/performance.md).
    The process stays as large as its largest step. Tensors on a GPU are not concerned.

    Returns:
        whether the C library is glibc and took it.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):  # another C library
        return False
    return bool(mallopt(M_MMAP_MAX, 0)) and bool(mallopt(M_TRIM_THRESHOLD, NEVER))


@contextlib.contextmanager
def freed_memory_kept(device: torch.device) -> Iterator[None]:
    """Within it `keep_freed_memory`, where the device is a CPU; afterwards the C library's own ways, and what is free
    goes back."""
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
    """Give freed blocks back, after a lack of memory: others could not use them, as oneDNN's on a CPU."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    elif sys.platform.startswith("linux"):
        with contextlib.suppress(AttributeError):
            ctypes.CDLL(None).malloc_trim(0)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that a device or the machine has no memory left."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    said = str(error).lower()
    return isinstance(error, RuntimeError | OSError) and any(words in said for words in SHORTAGES)


def advice(params: Any, config: Any) -> str:
    """What to set in params.yaml to need about half the memory, each with its present value, the cheapest first.

    Args:
        params: section train.
        config: the model's configuration.
    """
    ways = []
    if not params.auto_microbatch:
        ways.append("train.auto_microbatch to true (now false): the same step in smaller parts")
    if not params.activation_checkpointing:
        ways.append("train.activation_checkpointing to true (now false): the same step, about a third slower")
    if params.batch_size > 1:
        half, twice = params.batch_size // 2, params.gradient_accumulation_steps * 2
        ways.append(
            f"train.batch_size to {half} (now {params.batch_size}) with train.gradient_accumulation_steps {twice} (now "
            f"{params.gradient_accumulation_steps})"
        )
    for name in ("clips", "frames_per_clip"):
        if getattr(config, name) > 1:
            ways.append(f"model.{name} to {getattr(config, name) // 2} (now {getattr(config, name)})")
    ways.append(f"model.image_size to {_smaller(config.image_size)} (now {config.image_size})")
    return "Needs less memory, the least change first: " + "; ".join(ways) + "."


def _smaller(size: int) -> int:
    """A side with about half the pixels, a multiple of 32."""
    return max(32, round(size / 2**0.5 / 32) * 32)
