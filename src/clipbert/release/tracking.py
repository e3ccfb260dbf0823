"""One MLflow run for each training, and the evaluation in the same run."""

import contextlib
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from mlflow.entities import RunTag

from clipbert.console import errors
from clipbert.errors import ClipBertError
from clipbert.release.delivery import open_store_and_deliver
from clipbert.release.outbox import Outbox, outbox_folder, read_run, remove_delivered, waiting
from clipbert.release.provenance import provenance
from clipbert.release.runs import MAX_VALUE_LENGTH, active_run, create_run, flatten, log_evaluation
from clipbert.release.sender import Sender
from clipbert.release.store import (
    DEFAULT_NAME,
    Store,
    open_experiment,
    open_store,
    portable_uri,
    store_errors,
    tracking_uri,
)
from clipbert.release.system_metrics import PREFIX, SystemMetrics

__all__ = ["TrainingRun", "log_evaluation", "start_training_run", "tracking_uri"]

LOCK_PATIENCE_S = 60.0


class TrainingRun:
    """The MLflow run of a training that is under way.

    What it logs goes to the run's outbox on the disk (`clipbert.release.outbox`), and from there to MLflow by a thread
    of its own: a store that goes away, or a process that is killed, loses nothing, and the training never waits.
    """

    def __init__(self, outbox: Outbox, described: Mapping[str, Any], known: Mapping[str, int]) -> None:
        """Args:
        described: what `describe` returns.
        known: the last step of each key that the run has already.
        """
        self.run_id: str = described["run_id"]
        self.name: str = described["run_name"]
        self.params: dict[str, str] = described["params"]
        self.tags: dict[str, str] = described["tags"]
        self._outbox, self._described, self._known = outbox, dict(described), dict(known)

    def log_metrics(self, values: Mapping[str, float], step: int) -> None:
        """Record values at a step, which grow; a step that the run has from before a kill is not recorded twice."""
        new = {key: float(value) for key, value in values.items() if step > self._known.get(key, -1)}
        if new:
            self._outbox.append("metrics", {"step": step, "values": new})

    def log_samples(self, pictures: Iterable[Path], step: int) -> None:
        """Keep pictures of what the model sees or says at a step, under samples/.

        Raises:
            ClipBertError: they cannot be copied into the outbox.
        """
        for picture in pictures:
            self._outbox.append_file(picture, f"samples/step-{step:07d}")

    def flush(self) -> None:
        """Make what was logged outlive the machine: for right before a checkpoint, which must not be ahead of it."""
        self._outbox.fsync()

    def describe(self) -> dict[str, Any]:
        """What artifacts/runs/TASK.json holds: enough to find the run, or to make it again in another store."""
        return self._described


@contextlib.contextmanager
def start_training_run(
    root: Path,
    task: str,
    params: Mapping[str, Any],
    resume_run_id: str | None = None,
    release_name: str = DEFAULT_NAME,
) -> Iterator[TrainingRun]:
    """Open the run of a training, or go on with `resume_run_id` when this store has it.

    It ends as FINISHED, as FAILED after an exception, as KILLED after KeyboardInterrupt or SystemExit. A run killed
    without notice stays RUNNING until its training is resumed or another training of the task starts on this machine.

    In a distributed training the first process alone calls it.

    Args:
        params: nested or flat; logged flat, as `train.lr`.
        release_name: the parameter release.name, with which the experiment's name begins.

    Raises:
        ClipBertError: the store cannot be used; raised before anything is trained. A training that is resumed goes on
            all the same, and what it logs waits in its outbox.
    """
    root = root.resolve()
    flat, tags = flatten(params), {**provenance(root), "clipbert.task": task}
    store: Store | None = None
    known: dict[str, int] = {}
    try:
        store = open_store_and_deliver(root, release_name)
        run_id, name, known = _begin(store, task, flat, tags, resume_run_id)
    except ClipBertError as error:
        if resume_run_id is None:
            raise
        folder = outbox_folder(root, resume_run_id)
        errors.print(f"{error}\nThe training goes on; what it measures waits in {folder}.", markup=False)
        store, run_id, name = None, resume_run_id, read_run(folder)["run_name"]
    named = {"task": task, "run_id": run_id, "run_name": name, "tracking_uri": portable_uri(root)}
    outbox = Outbox(outbox_folder(root, run_id), LOCK_PATIENCE_S)
    try:
        if read_run(outbox.folder)["tracking_uri"] == "":
            outbox.describe(named)
        known = {key: max(known.get(key, -1), outbox.steps.get(key, -1)) for key in known.keys() | outbox.steps.keys()}
        if store is None:
            outbox.append("status", {"status": "RUNNING"})
            outbox.append("tags", {key: value[:MAX_VALUE_LENGTH] for key, value in tags.items()})
    except BaseException:
        outbox.close()
        raise
    training_run = TrainingRun(outbox, {**named, "params": flat, "tags": tags}, known)
    with _tracked(root, training_run, outbox, store, release_name) as run:
        yield run


@contextlib.contextmanager
def _tracked(
    root: Path, run: TrainingRun, outbox: Outbox, store: Store | None, release_name: str
) -> Iterator[TrainingRun]:
    sender = Sender(outbox, run.name, lambda: store or open_store(root, release_name))
    last = max((step for key, step in run._known.items() if key.startswith(PREFIX)), default=-1)
    system = SystemMetrics(run.log_metrics, last + 1)
    sender.start()
    system.start()
    status = "KILLED"
    try:
        yield run
        status = "FINISHED"
    except Exception:
        status = "FAILED"
        raise
    finally:
        system.finish()
        if not sender.close(status):
            task = run.tags["clipbert.task"]
            left = next((found.text for found in waiting(root, task) if found.run_id == run.run_id), run.name)
            reason = str(sender.error or "the store has not answered").split("\n", 1)[0]
            errors.print(
                f"Not in MLflow yet: {left}, kept in {outbox.folder} ({reason}). "
                f"`clipbert track sync {task}` delivers it.",
                markup=False,
            )


def _begin(
    store: Store, task: str, params: dict[str, str], tags: dict[str, str], resume_run_id: str | None
) -> tuple[str, str, dict[str, int]]:
    """A new run, or the one to go on with: its id, its name and the last step of each key that it has."""
    experiment_id = open_experiment(store, task)
    known: dict[str, int] = {}
    with store_errors(store.uri, "cannot be written"):
        info = active_run(store, resume_run_id)
        if info is None:
            remove_delivered(store.root, task)
            lost = {"clipbert.resumed_from": resume_run_id} if resume_run_id else {}
            name = f"{task} {time.strftime('%Y-%m-%d %H:%M:%S')}"
            info = create_run(store, experiment_id, name, params, tags | lost)
        else:
            known = {metric.key: metric.step for metric in store.client.get_run(info.run_id).data._metric_objs}
            # The process first: a run that is running and whose process is gone is ended by whatever looks next.
            store.client.log_batch(info.run_id, tags=[RunTag(key, tags[key][:MAX_VALUE_LENGTH]) for key in tags])
            store.client.update_run(info.run_id, status="RUNNING")
        # The first file proves, before any training, that the store takes files.
        store.client.log_dict(info.run_id, {"params": params, "tags": tags}, "training.json")
    return info.run_id, info.run_name, known
