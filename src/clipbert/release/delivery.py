"""From the outboxes to MLflow: in order and each value once, whatever became of the server or the sender before."""

from collections.abc import Callable, Iterable
from functools import partial
from itertools import groupby
from pathlib import Path

from mlflow.entities import Metric, RunTag
from mlflow.exceptions import MlflowException

from clipbert.console import console, errors, progress
from clipbert.errors import ClipBertError, first_line
from clipbert.redact import redact
from clipbert.release.outbox import Outbox, OutboxInUse, PendingOutbox, Record, format_count, read_run, waiting
from clipbert.release.store import DEFAULT_NAME, EMBEDDED, Store, open_store, portable_uri, short_timeouts, store_errors
from clipbert.release.system_metrics import PREFIX

MAX_VALUES_PER_BATCH = 1000
LOCK_PATIENCE_S = 2.0
SYNC = "`clipbert track sync`"


class RunNotFound(ClipBertError):
    """The store answers, and does not have the run."""


class Delivery:
    """Sends what an outbox holds to the run that it belongs to.

    What the run has already is not sent again: before the first batch, and again after each failure (did the server
    take the batch before it went away?), the run is asked for the last step of each of its keys. Steps of a key grow.
    """

    def __init__(self, outbox: Outbox, store: Store) -> None:
        self.outbox, self.store = outbox, store
        self.run_id = read_run(outbox.folder)["run_id"]
        self.left_out = [f"line {number} of {outbox.folder.name} is damaged" for number in outbox.damaged]
        self._last_step: dict[str, int] | None = None

    def deliver_next(self) -> list[Record]:
        """Send the oldest records, about a thousand values; returns them, none when MLflow has everything.

        A record that MLflow refuses for what it is (a key with a sign that it does not allow) is put into `left_out`
        and passed over, so that it does not hold up those behind it.

        Raises:
            RunNotFound: the run was deleted or is in another store.
            ClipBertError: the store does not answer.
        """
        if not (chunk := self.outbox.next_records(MAX_VALUES_PER_BATCH)):
            return []
        with store_errors(self.store.uri, "does not take metrics"), short_timeouts():
            try:
                if self._last_step is None:
                    self._look_up()
                for is_metrics, records in groupby(chunk, lambda record: record.kind == "metrics"):
                    if is_metrics:
                        self._send_metrics(self._new(records))
                    else:
                        for record in records:
                            self._unless_refused(partial(self._send, record), record.kind)
            except BaseException:
                self._last_step = None
                raise
        self.outbox.mark(chunk)
        return chunk

    def _new(self, records: Iterable[Record]) -> list[Metric]:
        known = self._last_step or {}
        return [
            Metric(key, value, record.time_ms, record.body["step"])
            for record in records
            for key, value in record.body["values"].items()
            if record.body["step"] > known.get(key, -1)
        ]

    def _send_metrics(self, metrics: list[Metric]) -> None:
        for start in range(0, len(metrics), MAX_VALUES_PER_BATCH):
            batch = metrics[start : start + MAX_VALUES_PER_BATCH]
            try:
                self.store.client.log_batch(self.run_id, metrics=batch)
            except MlflowException as error:
                if not _refused(error):
                    raise
                self._look_up()
                for metric in batch:
                    self._unless_refused(
                        partial(self.store.client.log_batch, self.run_id, metrics=[metric]),
                        f"{metric.key} at step {metric.step}",
                    )

    def _send(self, record: Record) -> None:
        client, body = self.store.client, record.body
        if record.kind == "tags":
            client.log_batch(self.run_id, tags=[RunTag(key, value) for key, value in body.items()])
        elif record.kind == "file":
            path = self.outbox.folder / body["name"]
            if path.is_file():  # not after a power failure, or when it was sent and the mark of it was not written
                client.log_artifact(self.run_id, str(path), body["folder"] or None)
        elif body["status"] == "RUNNING":
            client.update_run(self.run_id, status="RUNNING")
        else:
            client.set_terminated(self.run_id, body["status"], record.time_ms)

    def _unless_refused(self, send: Callable[[], None], what: str) -> None:
        try:
            send()
        except MlflowException as error:
            if not _refused(error):
                raise
            self._look_up()
            self.left_out.append(f"{what} is refused ({first_line(error)})")

    def _look_up(self) -> None:
        name = f"run {self.run_id}"
        give_up = f"or remove {self.outbox.folder} to give up what waits for it"
        try:
            run = self.store.client.get_run(self.run_id)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            kept = redact(read_run(self.outbox.folder)["tracking_uri"])
            if kept in ("", portable_uri(self.store.root)):
                raise RunNotFound(
                    f"MLflow store {self.store.shown} has no {name} any more: bring it back, {give_up}."
                ) from error
            remedy = (
                "unset MLFLOW_TRACKING_URI" if kept == f"sqlite:///{EMBEDDED}" else f"set MLFLOW_TRACKING_URI={kept}"
            )
            raise RunNotFound(
                f"MLflow store {self.store.shown} has no {name}, which was made in {kept}: {remedy} and run {SYNC}, "
                f"{give_up}."
            ) from error
        if run.info.lifecycle_stage != "active":
            raise RunNotFound(
                f"{name} was deleted from MLflow store {self.store.shown}: restore it with "
                f"`{self.store.mlflow} runs restore --run-id {self.run_id}`, {give_up}."
            )
        # The metrics that a run comes with are, of each key, the one with the largest step.
        self._last_step = {metric.key: metric.step for metric in run.data._metric_objs}


def open_store_and_deliver(root: Path, name: str = DEFAULT_NAME) -> Store:
    """`open_store`, and first of all what waits in the outboxes is delivered; what cannot be is said and stays.

    Raises:
        ClipBertError: the store cannot be used; the message tells of what waits for it.
    """
    try:
        store = open_store(root, name)
    except ClipBertError as error:
        if not (left := waiting(root)):
            raise
        held = ", ".join(outbox.text for outbox in left)
        raise ClipBertError(
            f"{error}\nWaiting for the store: {held}. {SYNC} delivers it when the store answers."
        ) from error
    for outbox, reason in _deliver_all(store, waiting(root)):
        if not isinstance(reason, OutboxInUse):
            errors.print(f"Not delivered to MLflow yet: {outbox.text}. {reason}", markup=False)
    return store


def sync(root: Path, task: str | None = None) -> None:
    """Deliver what waits in the outboxes, of a task or of all, and say of each run what was delivered.

    Raises:
        ClipBertError: something is left; the message says what and why.
    """
    if not (found := waiting(root, task)):
        console.print(f"Nothing waits for MLflow{f' of {task}' if task else ''}.", markup=False)
        return
    try:
        left = _deliver_all(open_store(root), found)
    except ClipBertError as error:
        left = [(outbox, error) for outbox in found]
    if left:
        reasons = "\n".join(dict.fromkeys(str(reason) for _, reason in left))
        raise ClipBertError(f"Not delivered to MLflow: {', '.join(outbox.text for outbox, _ in left)}.\n{reasons}")


def _deliver_all(store: Store, found: list[PendingOutbox]) -> list[tuple[PendingOutbox, ClipBertError]]:
    """Those that are left, with the reason; a store that stops answering is not asked for the next one."""
    left: list[tuple[PendingOutbox, ClipBertError]] = []
    for index, outbox in enumerate(found):
        try:
            console.print(_deliver(store, outbox), markup=False)
        except (RunNotFound, OutboxInUse) as error:
            left.append((outbox, error))
        except ClipBertError as error:
            return left + [(other, error) for other in found[index:]]
    return left


def _deliver(store: Store, found: PendingOutbox) -> str:
    outbox = Outbox(found.folder, LOCK_PATIENCE_S)
    try:
        delivery = Delivery(outbox, store)
        steps: list[int] = []
        values, status = 0, None
        with progress(f"sync {found.task}", found.values) as advance:
            while chunk := delivery.deliver_next():
                count = sum(record.values for record in chunk)
                steps += [step for record in chunk if (step := _step(record)) is not None]
                status = next((record.body["status"] for record in reversed(chunk) if record.kind == "status"), status)
                values += count
                advance(count, "values")
        for what in delivery.left_out:
            errors.print(f"{found.run_name}: {what}; left out.", markup=False)
        if status == "FINISHED":
            outbox.remove()
    finally:
        outbox.close()
    said = []
    if values:
        spread = f" up to step {max(steps)}" if steps else ""
        said.append(f"{format_count(values)}{spread}")
    said += [f"status {status}"] if status else []
    return f"{found.run_name}: {', '.join(said) or 'tags'} delivered to {store.shown}."


def _step(record: Record) -> int | None:
    """The step of the training; the system's metrics have a count of their own."""
    measured = record.kind == "metrics" and not all(key.startswith(PREFIX) for key in record.body["values"])
    return record.body["step"] if measured else None


def _refused(error: MlflowException) -> bool:
    return str(error.error_code) == "INVALID_PARAMETER_VALUE"
