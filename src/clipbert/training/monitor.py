"""Throughput of a training: clips and tokens per second, waiting for data, FLOP/s, memory and energy."""

import resource
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from clipbert.model import ClipBertModel
from clipbert.training.energy import Energy
from clipbert.training.flops import FlopCounts
from clipbert.training.peak_rates import peak_tflops

SUMS = ("waited", "clips", "tokens", "flops")


class ThroughputMonitor:
    """Monitor of a training's throughput, computed from shapes, so that no step waits for the device.

    On a GPU the work of a step is still queued when its Python code ends. The rates are averages over the steps between
    two calls of `read`; the loop waits for the device before each of them.
    """

    def __init__(self, model: nn.Module, device: torch.device, precision: str) -> None:
        """
        Args:
            precision: "fp32", "bf16" or "fp16"; `mfu` is relative to the device's peak rate at this precision.
        """
        self.device, self.peak = device, peak_tflops(device, precision)
        self.counts, self.energy = FlopCounts(), Energy(device)
        self._sums = dict.fromkeys(SUMS, 0.0)
        self._joules_before = 0.0
        self._joules_read = 0.0
        self.flops = 0.0  # of this process, over all resumes
        self._clock = time.monotonic()
        for module in model.modules():
            if isinstance(module, ClipBertModel):
                module.encoder.register_forward_pre_hook(self._count_tokens)
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Measure the time in this context as waiting for data."""
        start = time.monotonic()
        yield
        self._sums["waited"] += time.monotonic() - start

    @contextmanager
    def step(self, batch: Any) -> Iterator[None]:
        """Count the forward and backward pass of a batch (`tasks.batch.Batch`) in this context."""
        with self.counts.step(batch):
            yield
        videos, clips = batch.frames.shape[:2]
        self._sums["clips"] += videos * clips
        self._sums["flops"] += self.counts.last
        self.flops += self.counts.last

    def read(self) -> dict[str, float]:
        """Return the averages since the last call.

        Returns:
            `clips_per_s`, `tokens_per_s` (text and visual tokens through the encoder), `data_wait` (fraction of the
            time), `tflops`, `mfu` if the device's peak is known, `peak_memory_gb`, and `joules` used since the last
            call if the device reports them.
        """
        now = time.monotonic()
        seconds, self._clock = max(now - self._clock, 1e-9), now
        sums, self._sums = self._sums, dict.fromkeys(SUMS, 0.0)
        rate = sums["flops"] / seconds / 1e12
        row = {
            "clips_per_s": sums["clips"] / seconds,
            "tokens_per_s": sums["tokens"] / seconds,
            "data_wait": sums["waited"] / seconds,
            "tflops": rate,
            "peak_memory_gb": self.peak_memory_gb(),
        }
        if self.peak is not None:
            row["mfu"] = rate / self.peak
        total = self.joules()
        if total is not None:
            row["joules"], self._joules_read = total - self._joules_read, total
        return row

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Exclude the time and the tokens in this context, for example of a validation."""
        start, sums = time.monotonic(), dict(self._sums)
        yield
        self._clock += time.monotonic() - start
        self._sums = sums

    def joules(self) -> float | None:
        """Return the energy used over all resumes of the training; None if the device does not report it."""
        used = self.energy.joules()
        return None if used is None else self._joules_before + used

    def peak_memory_gb(self) -> float:
        """Return the peak memory: allocated on the GPU, or resident in this process."""
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device) / 1e9
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9

    def state_dict(self) -> dict[str, float]:
        """Return the energy and the operations used so far, for a checkpoint."""
        return {"joules": self.joules() or 0.0, "flops": self.flops}

    def load_state_dict(self, state: dict[str, float]) -> None:
        """Continue from the energy and the operations in `state`."""
        self._joules_before = self._joules_read = state["joules"]
        self.flops = state["flops"]

    def _count_tokens(self, module: nn.Module, arguments: tuple[Any, ...]) -> None:
        if torch._C._current_graph_task_id() == -1:  # not during a recomputation in backward
            rows, length = arguments[0].shape[:2]
            self._sums["tokens"] += rows * length
