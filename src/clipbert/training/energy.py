"""Energy that devices say they have used: a GPU through NVML, a processor through Linux's powercap (RAPL)."""

import importlib
from pathlib import Path
from typing import Any

import torch

POWERCAP = Path("/sys/class/powercap")


class Energy:
    """Joules since it was made, of the training device and the processor packages; None where neither tells.

    Other programs on the same device are in it.
    """

    def __init__(self, device: torch.device, powercap: Path = POWERCAP) -> None:
        self._gpu = _nvml_handle(device) if device.type == "cuda" else None
        self._packages = [
            folder
            for folder in sorted(powercap.glob("intel-rapl:*"))
            if folder.name.count(":") == 1 and _number(folder / "energy_uj") is not None
        ]
        self._last = [self._of(package) for package in self._packages]
        self._processor = 0.0
        self._start = self._gpu_joules()

    def joules(self) -> float | None:
        """The sum so far."""
        if self._gpu is None and not self._packages:
            return None
        for place, package in enumerate(self._packages):
            now = self._of(package)
            used = now - self._last[place]
            if used < 0:  # the counter starts again from zero
                used += (_number(package / "max_energy_range_uj") or 0.0) / 1e6
            self._processor, self._last[place] = self._processor + used, now
        return self._processor + self._gpu_joules() - self._start

    def _gpu_joules(self) -> float:
        if self._gpu is None:
            return 0.0
        nvml, handle = self._gpu
        return float(nvml.nvmlDeviceGetTotalEnergyConsumption(handle)) / 1000

    @staticmethod
    def _of(package: Path) -> float:
        return (_number(package / "energy_uj") or 0.0) / 1e6


def _number(path: Path) -> float | None:
    try:
        return float(path.read_text())
    except (OSError, ValueError):
        return None


def _nvml_handle(device: torch.device) -> tuple[Any, Any] | None:
    """NVML and its handle of a GPU, by the identity CUDA gives it; None without nvidia-ml-py or the counter."""
    try:
        nvml = importlib.import_module("pynvml")
        nvml.nvmlInit()
        handle = nvml.nvmlDeviceGetHandleByUUID(f"GPU-{torch.cuda.get_device_properties(device).uuid}")
        nvml.nvmlDeviceGetTotalEnergyConsumption(handle)
    except Exception:  # NVML has an error class of its own for each reason
        return None
    return nvml, handle
