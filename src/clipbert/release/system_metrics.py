"""How busy processor, memory, disk, network and GPU are while a training runs."""

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
    """MLflow's gauges, read by a thread of our own: MLflow's sends by itself and ends at the first request that fails.

    They have MLflow's names, such as `system/cpu_utilization_percentage`, and MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL
    is the seconds between two readings.
    """

    def __init__(self, log: Callable[[Mapping[str, float], int], None], first_step: int) -> None:
        self._log, self._step = log, first_step
        self._every_s = float(MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL.get() or EVERY_S)
        self._gauges: list[Any] = [CPUMonitor(), DiskMonitor(), NetworkMonitor(), *_gpu()]
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._read, name="system metrics", daemon=True)

    def start(self) -> None:
        """Begin to read."""
        self._thread.start()

    def finish(self) -> None:
        """Stop; a reading that is under way is logged."""
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
        except Exception:  # no such GPU, or no package that knows it: MLflow raises what it finds
            continue
    return []
