"""One MLflow run for each training, and the evaluation in the same run."""

import contextlib
import platform
import signal
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import FrameType
from typing import Any

import psutil
from mlflow.entities import Metric, RunTag
from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

from clipbert.console import errors
from clipbert.errors import ClipBertError
from clipbert.release.provenance import provenance
from clipbert.release.runs import LONGEST_VALUE, active_run, create_run, flatten, log_evaluation
from clipbert.release.store import (
    EMBEDDED,
    Store,
    open_experiment,
    open_store,
    short_patience,
    store_errors,
    tracking_uri,
)

__all__ = ["TrainingRun", "log_evaluation", "start_training_run", "tracking_uri"]

SYSTEM_METRICS_EVERY_S = 5
FLUSH_EVERY_S = 5.0
RETRY_AFTER_S = 60.0
METRICS_AT_ONCE = 1000


class TrainingRun:
    """The MLflow run of a training that is under way.

    Metrics are gathered for a few seconds and sent together. A store that fails in the middle does not stop the
    training: the metrics wait and are sent when it answers again.
    """

    def __init__(self, store: Store, info: Any, params: dict[str, str], tags: dict[str, str], resumed: bool) -> None:
        self.run_id: str = info.run_id
        self.name: str = info.run_name
        self.params = params
        self.tags = tags
        self.store = store
        self.resumed = resumed
        self._last_step: dict[str, int] = {}
        self._waiting: list[Any] = []
        self._send_at = time.monotonic() + FLUSH_EVERY_S

    def log_metrics(self, values: Mapping[str, float], step: int) -> None:
        """Record values at a step; a step that this run already has from before a kill is not recorded twice."""
        now = int(time.time() * 1000)
        self._waiting += [Metric(key, float(value), now, step) for key, value in values.items()]
        if time.monotonic() >= self._send_at:
            self.flush()

    def log_samples(self, pictures: Iterable[Path], step: int) -> None:
        """Keep pictures of what the model sees or says at a step, under samples/.

        Raises:
            ClipBertError: the store does not take them.
        """
        with store_errors(self.store.uri, "cannot keep pictures"):
            for picture in pictures:
                self.store.client.log_artifact(self.run_id, str(picture), f"samples/step-{step:07d}")

    def flush(self) -> None:
        """Send what waits; when the store does not take it, say so and keep it for later."""
        try:
            with store_errors(self.store.uri, "does not take metrics"), short_patience():
                self._drop_known_steps()
                while self._waiting:
                    self.store.client.log_batch(self.run_id, metrics=self._waiting[:METRICS_AT_ONCE])
                    del self._waiting[:METRICS_AT_ONCE]
            self._send_at = time.monotonic() + FLUSH_EVERY_S
        except ClipBertError as error:
            self._send_at = time.monotonic() + RETRY_AFTER_S
            errors.print(f"{error}\nNot recorded yet: {len(self._waiting)} values of {self.name}.", markup=False)

    def describe(self) -> dict[str, Any]:
        """What artifacts/runs/TASK.json holds: enough to find the run, or to make it again in another store."""
        return {
            "task": self.tags["clipbert.task"],
            "run_id": self.run_id,
            "run_name": self.name,
            "tracking_uri": f"sqlite:///{EMBEDDED}" if self.store.embedded else self.store.shown,
            "params": self.params,
            "tags": self.tags,
        }

    def _drop_known_steps(self) -> None:
        if not self.resumed:
            return
        for key in {metric.key for metric in self._waiting} - self._last_step.keys():
            history = self.store.client.get_metric_history(self.run_id, key)
            self._last_step[key] = max((metric.step for metric in history), default=-1)
        self._waiting = [metric for metric in self._waiting if metric.step > self._last_step[metric.key]]


@contextlib.contextmanager
def start_training_run(
    root: Path, task: str, params: Mapping[str, Any], resume_run_id: str | None = None
) -> Iterator[TrainingRun]:
    """Open the run of a training, or go on with `resume_run_id` when this store has it.

    It ends as FINISHED, as FAILED after an exception, as KILLED after Ctrl-C or SIGTERM. A run killed without notice
    stays RUNNING until its training is resumed or another training of the task starts on the same machine.

    Args:
        params: nested or flat; logged flat, as `train.lr`.

    Raises:
        ClipBertError: the store cannot be used; raised before anything is trained.
    """
    store = open_store(root)
    experiment_id = open_experiment(store, task)
    flat, tags = flatten(params), {**provenance(store.root), "clipbert.task": task}
    with store_errors(store.uri, "cannot be written"):
        _end_abandoned(store, experiment_id, except_for=resume_run_id)
        info = active_run(store, resume_run_id)
        resumed = info is not None
        if info is None:
            lost = {"clipbert.resumed_from": resume_run_id} if resume_run_id else {}
            name = f"{task} {time.strftime('%Y-%m-%d %H:%M:%S')}"
            info = create_run(store, experiment_id, name, flat, tags | lost)
        else:
            store.client.update_run(info.run_id, status="RUNNING")
            store.client.log_batch(info.run_id, tags=[RunTag(key, tags[key][:LONGEST_VALUE]) for key in tags])
        # The first file proves, before any training, that the store takes files.
        store.client.log_dict(info.run_id, {"params": flat, "tags": tags}, "training.json")
    run = TrainingRun(store, info, flat, tags, resumed)

    monitor = SystemMetricsMonitor(run.run_id, SYSTEM_METRICS_EVERY_S, resume_logging=resumed, tracking_uri=store.uri)
    monitor.start()
    status = "KILLED"
    try:
        with _terminated_like_interrupted():
            yield run
        status = "FINISHED"
    except Exception:
        status = "FAILED"
        raise
    finally:
        monitor.finish()
        run.flush()
        _end(run, status)


def _end_abandoned(store: Store, experiment_id: str, except_for: str | None) -> None:
    """Runs of this machine whose process is gone are over: they were killed without a chance to say so."""
    query = f"attributes.status = 'RUNNING' and tags.`clipbert.host` = '{platform.node()}'"
    for run in store.client.search_runs([experiment_id], filter_string=query):
        pid = run.data.tags.get("clipbert.pid", "")
        if run.info.run_id != except_for and pid.isdigit() and not psutil.pid_exists(int(pid)):
            store.client.set_terminated(run.info.run_id, "KILLED")


def _end(run: TrainingRun, status: str) -> None:
    try:
        with store_errors(run.store.uri, f"did not take the end of {run.name}"), short_patience():
            run.store.client.set_terminated(run.run_id, status)
    except ClipBertError as error:
        errors.print(str(error), markup=False)


@contextlib.contextmanager
def _terminated_like_interrupted() -> Iterator[None]:
    """SIGTERM unwinds the stack, as Ctrl-C does, unless the program handles it already."""
    if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGTERM) != signal.SIG_DFL:
        yield
        return

    def unwind(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    signal.signal(signal.SIGTERM, unwind)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
