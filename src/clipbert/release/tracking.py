"""Tracking of a training as an MLflow run; the evaluation of its model is logged to the same run."""

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from mlflow.entities import RunTag

from clipbert.console import errors
from clipbert.errors import ClipBertError
from clipbert.release.connection import open_experiment, open_store
from clipbert.release.delivery import open_store_and_deliver
from clipbert.release.descriptions import NOTE, description
from clipbert.release.outbox import Outbox, outbox_folder, pending_outboxes, read_run, remove_delivered
from clipbert.release.provenance import provenance
from clipbert.release.run_names import EXPERIMENT_TAG, dvc_experiment, run_name
from clipbert.release.runs import MAX_VALUE_LENGTH, active_run, create_run, flatten, log_evaluation
from clipbert.release.sender import Sender
from clipbert.release.store import DEFAULT_NAME, Store, portable_uri, store_errors, tracking_uri
from clipbert.release.stored_source import record_source
from clipbert.release.system_metrics import PREFIX, SystemMetrics

__all__ = ["TrainingRun", "log_evaluation", "start_training_run", "tracking_uri"]

LOCK_TIMEOUT_S = 60.0


class TrainingRun:
    """MLflow run of a training in progress.

    Everything logged goes to the run's outbox on the disk (`clipbert.release.outbox`), from where a thread sends it to
    MLflow. No record is lost if the store fails or the process is killed, and the training does not wait for the store.
    """

    def __init__(self, outbox: Outbox, described: Mapping[str, Any], known: Mapping[str, int]) -> None:
        """Create the run's interface for the training loop.

        Args:
            outbox: the run's outbox.
            described: what `describe` returns.
            known: the last step of each key that the run already has.
        """
        self.run_id: str = described["run_id"]
        self.name: str = described["run_name"]
        self.params: dict[str, str] = described["params"]
        self.tags: dict[str, str] = described["tags"]
        self._outbox, self._described, self._known = outbox, dict(described), dict(known)

    def log_metrics(self, values: Mapping[str, float], step: int) -> None:
        """Log values at a step; steps must increase. Steps that the run has from before a kill are not logged twice."""
        new = {key: float(value) for key, value in values.items() if step > self._known.get(key, -1)}
        if new:
            self._outbox.append("metrics", {"step": step, "values": new})

    def log_samples(self, pictures: Iterable[Path], step: int) -> None:
        """Log pictures of the model's inputs or outputs at a step, under samples/.

        Raises:
            ClipBertError: they cannot be copied into the outbox.
        """
        for picture in pictures:
            self._outbox.append_file(picture, f"samples/step-{step:07d}")

    def log_card(self, card: str) -> None:
        """Make a model card the description of the run in MLflow's pages."""
        self._outbox.append("tags", {NOTE: description(card)})

    def flush(self) -> None:
        """Flush the log to the disk; call it before a checkpoint is written, which must not be ahead of the log."""
        self._outbox.fsync()

    def describe(self) -> dict[str, Any]:
        """Return the content of artifacts/runs/TASK.json, from which the run is found or created in another store."""
        return self._described


@contextlib.contextmanager
def start_training_run(
    root: Path,
    task: str,
    params: Mapping[str, Any],
    resume_run_id: str | None = None,
    release_name: str = DEFAULT_NAME,
    defaults: Mapping[str, Any] | None = None,
) -> Iterator[TrainingRun]:
    """Create the MLflow run of a training, or resume the run `resume_run_id` if this store has it.

    The run ends as FINISHED, as FAILED after an exception, or as KILLED after KeyboardInterrupt or SystemExit. The run
    of a process that was killed stays RUNNING until its training is resumed or a command opens the store on this
    machine. In a distributed training only the first process calls this function.

    Args:
        root: the project's folder.
        task: the task.
        params: nested or flat; logged flat, as `train.lr`.
        resume_run_id: the run of the checkpoint from which the training resumes; None for a new training.
        release_name: the parameter release.name, the prefix of the experiment's name.
        defaults: the default parameters; the run's name lists those of `params` that differ. None: it lists none.

    Raises:
        ClipBertError: the store cannot be used; raised before the training starts. A resumed training continues
            without the store, and its records stay in the outbox.
    """
    root = root.resolve()
    flat, tags = flatten(params), {**provenance(root), "clipbert.task": task}
    if experiment := dvc_experiment():
        tags[EXPERIMENT_TAG] = experiment
    store: Store | None = None
    known: dict[str, int] = {}
    try:
        store = open_store_and_deliver(root, release_name)
        title = run_name(root, task, flat, flat if defaults is None else flatten(defaults))
        run_id, name, known = _open_run(store, task, title, flat, tags, resume_run_id)
    except ClipBertError as error:
        if resume_run_id is None:
            raise
        folder = outbox_folder(root, resume_run_id)
        errors.print(f"{error}\nThe training continues; its records are kept in {folder}.")
        store, run_id, name = None, resume_run_id, read_run(folder)["run_name"]
    named = {"task": task, "run_id": run_id, "run_name": name, "tracking_uri": portable_uri(root)}
    outbox = Outbox(outbox_folder(root, run_id), LOCK_TIMEOUT_S)
    try:
        if read_run(outbox.folder)["tracking_uri"] == "":
            outbox.write_run(named)
        known = {key: max(known.get(key, -1), outbox.steps.get(key, -1)) for key in known.keys() | outbox.steps.keys()}
        if store is None:
            outbox.append("status", {"status": "RUNNING"})
            outbox.append("tags", {key: value[:MAX_VALUE_LENGTH] for key, value in tags.items()})
    except BaseException:
        outbox.close()
        raise
    training_run = TrainingRun(outbox, {**named, "params": flat, "tags": tags}, known)
    with _run_session(root, training_run, outbox, store, release_name) as run:
        yield run


@contextlib.contextmanager
def _run_session(
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
            left = next((found.text for found in pending_outboxes(root, task) if found.run_id == run.run_id), run.name)
            reason = str(sender.error or "the store has not answered").split("\n", 1)[0]
            errors.print(
                f"Not delivered to MLflow yet: {left}, kept in {outbox.folder} ({reason}). "
                f"Run `clipbert track sync {task}` to deliver it.",
            )


def _open_run(
    store: Store, task: str, name: str, params: dict[str, str], tags: dict[str, str], resume_run_id: str | None
) -> tuple[str, str, dict[str, int]]:
    """Create or resume a run; return its id, its name and the last step of each of its keys."""
    experiment_id = open_experiment(store, task)
    known: dict[str, int] = {}
    with store_errors(store.uri, "cannot be written"):
        info = active_run(store, resume_run_id)
        if info is None:
            remove_delivered(store.root, task)
            lost = {"clipbert.resumed_from": resume_run_id} if resume_run_id else {}
            info = create_run(store, experiment_id, name, params, tags | lost)
        else:
            known = {metric.key: metric.step for metric in store.client.get_run(info.run_id).data._metric_objs}
            # First the tags of this process: a RUNNING run of a dead process is ended by the next command.
            store.client.log_batch(info.run_id, tags=[RunTag(key, tags[key][:MAX_VALUE_LENGTH]) for key in tags])
            store.client.update_run(info.run_id, status="RUNNING")
        # The first file proves that the store accepts files before the training starts.
        store.client.log_dict(info.run_id, {"params": params, "tags": tags}, "training.json")
        record_source(store, info.run_id)
    return info.run_id, info.run_name, known
