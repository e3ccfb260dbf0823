"""Utilization of CPU, memory, disk, network and GPU during a training."""

import threading
from collections.abc import Callable, Mapping
from typing import Any

from mlflow.environment_variables import MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL
from mlflow.system_metrics.metrics.cpu_monitor import CPUMonitor
from mlflow.system_metrics.metrics.disk_monitor import DiskMonitor
from mlflow.system_metrics.metrics.gpu_monitor import GPUMonitor
from mlflow.system_metrics.metrics.network_monitor import NetworkMonitor
from mlflow.system_metrics.metrics.rocm_monitor import ROCMMonitor

EVERY_S = 5.0
PREFIX = "system/"


class SystemMetrics:
    """Thread that samples MLflow's system metrics and logs them through the outbox.

    MLflow's own thread sends them directly and ends at the first failed request. The names are MLflow's, such as
    `system/cpu_utilization_percentage`; MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL sets the seconds between two samples.
    """

    def __init__(self, log: Callable[[Mapping[str, float], int], None], first_step: int) -> None:
        self._log, self._step = log, first_step
        self._every_s = float(MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL.get() or EVERY_S)
        self._gauges: list[Any] = [CPUMonitor(), DiskMonitor(), NetworkMonitor(), *_gpu()]
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._read, name="system metrics", daemon=True)

    def start(self) -> None:
        """Start sampling."""
        self._thread.start()

    def finish(self) -> None:
        """Stop sampling; log the sample in progress."""
        self._over.set()
        self._thread.join()

    def _read(self) -> None:
        while not self._over.wait(self._every_s):
            values: dict[str, float] = {}
            for gauge in self._gauges:
                gauge.collect_metrics()
                values |= gauge.aggregate_metrics()
                gauge.clear_metrics()
            self._log({PREFIX + name: value for name, value in values.items()}, self._step)
            self._step += 1


def _gpu() -> list[Any]:
    for gauge in (GPUMonitor, ROCMMonitor):
        try:
            return [gauge()]
        except Exception:  # no such GPU, or no package for it; the kind of error varies
            continue
    return []
