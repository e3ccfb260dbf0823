"""Peak rates of dense matrix products per device, the reference of MFU (model FLOP/s utilization)."""

import time
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch.nn.functional import conv2d

from clipbert.training.precision import DTYPES

# Dense (not sparse) TFLOP/s of tensor cores with fp32 accumulation, by a part of the device name in CUDA; the longest
# matching part is used. fp32 stands for TF32. From the vendor's data sheets and architecture papers, which give most
# rates with sparsity: half of these. Not measured (docs/concepts/performance.md).
PUBLISHED = {
    "GH200": {"bf16": 989.4, "fp16": 989.4, "fp32": 494.7},
    "H200": {"bf16": 989.4, "fp16": 989.4, "fp32": 494.7},
    "H200 NVL": {"bf16": 835.5, "fp16": 835.5, "fp32": 417.5},
    "H100": {"bf16": 989.4, "fp16": 989.4, "fp32": 494.7},
    "H100 PCIe": {"bf16": 756.5, "fp16": 756.5, "fp32": 378.0},
    "H100 NVL": {"bf16": 835.5, "fp16": 835.5, "fp32": 417.5},
    "A100": {"bf16": 312.0, "fp16": 312.0, "fp32": 156.0},
    "A30": {"bf16": 165.0, "fp16": 165.0, "fp32": 82.0},
    "A40": {"bf16": 149.7, "fp16": 149.7, "fp32": 74.8},
    "A10": {"bf16": 125.0, "fp16": 125.0, "fp32": 62.5},
    "A10G": {"bf16": 70.0, "fp16": 70.0, "fp32": 35.0},
    "L40S": {"bf16": 362.1, "fp16": 362.1, "fp32": 183.2},
    "L40": {"bf16": 181.1, "fp16": 181.1, "fp32": 90.5},
    "L4": {"bf16": 121.0, "fp16": 121.0, "fp32": 60.0},
    "V100": {"fp16": 125.0, "fp32": 15.7},
    "T4": {"fp16": 65.0, "fp32": 8.1},
    "RTX 3090": {"bf16": 71.2, "fp16": 71.2, "fp32": 35.6},
    "RTX 4090": {"bf16": 165.2, "fp16": 165.2, "fp32": 82.6},
}
TRIES = 6
SIDE = 1536  # of the square matrices
MAPS, CHANNELS, CELLS = 8, 256, 28  # of a 3x3 convolution as in the third stage of a ResNet-50


def peak_tflops(device: torch.device, precision: str) -> float | None:
    """Return the peak TFLOP/s of a device; None if unknown.

    It is a published value for GPUs; on a CPU the faster of a matrix product and a convolution is measured once.
    """
    if device.type == "cuda":
        return published(torch.cuda.get_device_name(device), precision)
    return _measured(precision) if device.type == "cpu" else None


def published(name: str, precision: str) -> float | None:
    """Return the published rate of a GPU by its device name; None if unknown, as of a part of a GPU (MIG)."""
    words = name.replace("-", " ").split()
    if "MIG" in words:
        return None
    known = [part for part in PUBLISHED if all(word in words for word in part.split())]
    return PUBLISHED[max(known, key=len)].get(precision) if known else None


@cache
def _measured(precision: str) -> float:
    """Measure the rate in wall-clock or processor time, whichever is less, to exclude other programs."""
    dtype, threads = DTYPES[precision] or torch.float32, torch.get_num_threads()
    generator = torch.Generator().manual_seed(0)  # leaves the random numbers of the training unchanged
    square = torch.randn(SIDE, SIDE, dtype=dtype, generator=generator)
    maps = torch.randn(MAPS, CHANNELS, CELLS, CELLS, dtype=dtype, generator=generator)
    kernel = torch.randn(CHANNELS, CHANNELS, 3, 3, dtype=dtype, generator=generator)
    maps, kernel = (some.contiguous(memory_format=torch.channels_last) for some in (maps, kernel))
    operations_and_calls: list[tuple[int, Callable[[], Any]]] = [
        (2 * SIDE**3, lambda: square @ square),
        (2 * MAPS * CELLS**2 * 9 * CHANNELS**2, lambda: conv2d(maps, kernel, padding=1)),
    ]
    best = 0.0
    for operations, call in operations_and_calls:
        for _ in range(TRIES):
            start, used = time.perf_counter(), time.process_time()
            call()
            seconds = min(time.perf_counter() - start, (time.process_time() - used) / threads)
            best = max(best, operations / seconds)
    return best / 1e12
