"""Energy counters of devices: GPUs through NVML, processors through Linux powercap (RAPL)."""

import importlib
from pathlib import Path
from typing import Any

import torch

POWERCAP = Path("/sys/class/powercap")


class Energy:
    """Energy used by the training device and the processor packages since this object was created.

    It includes other programs on the same devices.
    """

    def __init__(self, device: torch.device, powercap: Path = POWERCAP) -> None:
        self._gpu = _nvml_handle(device) if device.type == "cuda" else None
        self._packages = [
            folder
            for folder in sorted(powercap.glob("intel-rapl:*"))
            if folder.name.count(":") == 1 and _number(folder / "energy_uj") is not None
        ]
        self._last = [self._package_joules(package) for package in self._packages]
        self._processor = 0.0
        self._start = self._gpu_joules()

    def joules(self) -> float | None:
        """Return the energy so far; None if no device reports it."""
        if self._gpu is None and not self._packages:
            return None
        for index, package in enumerate(self._packages):
            now = self._package_joules(package)
            used = now - self._last[index]
            if used < 0:  # the counter wrapped around
                used += (_number(package / "max_energy_range_uj") or 0.0) / 1e6
            self._processor, self._last[index] = self._processor + used, now
        return self._processor + self._gpu_joules() - self._start

    def _gpu_joules(self) -> float:
        if self._gpu is None:
            return 0.0
        nvml, handle = self._gpu
        return float(nvml.nvmlDeviceGetTotalEnergyConsumption(handle)) / 1000

    @staticmethod
    def _package_joules(package: Path) -> float:
        return (_number(package / "energy_uj") or 0.0) / 1e6


def _number(path: Path) -> float | None:
    try:
        return float(path.read_text())
    except (OSError, ValueError):
        return None


def _nvml_handle(device: torch.device) -> tuple[Any, Any] | None:
    """Return NVML and its handle of a GPU, found by its UUID; None without nvidia-ml-py or without the counter."""
    try:
        nvml = importlib.import_module("pynvml")
        nvml.nvmlInit()
        handle = nvml.nvmlDeviceGetHandleByUUID(f"GPU-{torch.cuda.get_device_properties(device).uuid}")
        nvml.nvmlDeviceGetTotalEnergyConsumption(handle)
    except Exception:  # NVML has a different error class for each reason
        return None
    return nvml, handle
