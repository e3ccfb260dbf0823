"""What a training makes of its machine: throughput, waiting for data, FLOP/s, memory and energy."""

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

PARTS = ("waited", "clips", "tokens", "flops")


class ThroughputMonitor:
    """Counts what steps do, from shapes alone: nothing waits for the device.

    On a GPU the work is still queued when a step's Python ends; over the steps between two `read`s, of which the loop
    takes values from the device anyway, the times are right.
    """

    def __init__(self, model: nn.Module, device: torch.device, precision: str) -> None:
        """`precision`: "fp32", "bf16" or "fp16", whose peak rate of the device the FLOP/s are a share of."""
        self.device, self.peak = device, peak_tflops(device, precision)
        self.counts, self.energy = FlopCounts(), Energy(device)
        self._sums = dict.fromkeys(PARTS, 0.0)
        self._joules_before = 0.0
        self._joules_read = 0.0
        self._clock = time.monotonic()
        for module in model.modules():
            if isinstance(module, ClipBertModel):
                module.encoder.register_forward_pre_hook(self._encoder_reads)
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Around the taking of the next batch."""
        start = time.monotonic()
        yield
        self._sums["waited"] += time.monotonic() - start

    @contextmanager
    def step(self, batch: Any) -> Iterator[None]:
        """Around forward and backward of a batch (`tasks.base.Batch`); its operations are counted once a shape."""
        with self.counts.step(batch):
            yield
        videos, clips = batch.pixel_values.shape[:2]
        self._sums["clips"] += videos * clips
        self._sums["flops"] += self.counts.last

    def read(self) -> dict[str, float]:
        """Means since the last `read`: `clips_per_s`, `tokens_per_s` (text and visual ones through the encoder),
        `data_wait` (share of the time), `tflops`, `mfu` where the device's peak is known, `peak_memory_gb`, and
        `joules` where the device tells: since the last `read`, too."""
        now = time.monotonic()
        seconds, self._clock = max(now - self._clock, 1e-9), now
        sums, self._sums = self._sums, dict.fromkeys(PARTS, 0.0)
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
        """Around what is no training step, as validation: its time and its tokens do not count."""
        start, sums = time.monotonic(), dict(self._sums)
        yield
        self._clock += time.monotonic() - start
        self._sums = sums

    def joules(self) -> float | None:
        """What the whole training took, also before it was resumed; None where the device does not tell."""
        used = self.energy.joules()
        return None if used is None else self._joules_before + used

    def peak_memory_gb(self) -> float:
        """Gigabytes: allocated on the GPU, or resident in this process."""
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device) / 1e9
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9

    def state_dict(self) -> dict[str, float]:
        """What a resumed training goes on counting from."""
        return {"joules": self.joules() or 0.0}

    def load_state_dict(self, state: dict[str, float]) -> None:
        """Go on from a state."""
        self._joules_before = self._joules_read = state["joules"]

    def _encoder_reads(self, module: nn.Module, arguments: tuple[Any, ...]) -> None:
        if torch._C._current_graph_task_id() == -1:  # not a recomputation in backward
            rows, length = arguments[0].shape[:2]
            self._sums["tokens"] += rows * length
