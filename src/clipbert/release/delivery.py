"""Delivery of outboxes to MLflow: in order and each value once, even after failures of the server or the sender."""

from collections.abc import Callable, Iterable
from functools import partial
from itertools import groupby
from pathlib import Path

from mlflow.entities import Metric, RunTag
from mlflow.exceptions import MlflowException

from clipbert.console import console, errors, progress
from clipbert.errors import ClipBertError, first_line
from clipbert.redact import redact
from clipbert.release.connection import open_store
from clipbert.release.outbox import Outbox, OutboxInUse, PendingOutbox, Record, format_count, pending_outboxes, read_run
from clipbert.release.store import (
    DEFAULT_NAME,
    EMBEDDED,
    Store,
    is_absent,
    portable_uri,
    short_timeouts,
    store_errors,
)
from clipbert.release.system_metrics import PREFIX

MAX_VALUES_PER_BATCH = 1000
LOCK_TIMEOUT_S = 2.0
SYNC = "`clipbert track sync`"


class RunNotFound(ClipBertError):
    """The store answers but does not have the run."""


class Delivery:
    """Delivery of one outbox to its run.

    Values that the run already has are not sent again: the last step of each key is read from the run before the first
    batch and after each failure, when the server may or may not have stored the batch. The steps of a key increase.
    """

    def __init__(self, outbox: Outbox, store: Store) -> None:
        self.outbox, self.store = outbox, store
        self.run_id = read_run(outbox.folder)["run_id"]
        self.skipped = [f"line {number} of {outbox.folder.name} is damaged" for number in outbox.damaged]
        self._last_step: dict[str, int] | None = None

    def deliver_next(self) -> list[Record]:
        """Send the oldest records, about a thousand values, and return them; empty if MLflow has all records.

        A record that MLflow rejects as invalid, such as a key with a character that it does not allow, is described in
        `skipped` and does not block the records after it.

        Raises:
            RunNotFound: the run was deleted or is in another store.
            ClipBertError: the store does not answer.
        """
        if not (chunk := self.outbox.next_records(MAX_VALUES_PER_BATCH)):
            return []
        with store_errors(self.store.uri, "does not accept metrics"), short_timeouts():
            try:
                if self._last_step is None:
                    self._load_last_steps()
                for is_metrics, records in groupby(chunk, lambda record: record.kind == "metrics"):
                    if is_metrics:
                        self._send_metrics(self._new(records))
                    else:
                        for record in records:
                            self._send_or_skip(partial(self._send, record), record.kind)
            except BaseException:
                self._last_step = None
                raise
        self.outbox.mark_delivered(chunk)
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
                if not _is_invalid(error):
                    raise
                self._load_last_steps()
                for metric in batch:
                    self._send_or_skip(
                        partial(self.store.client.log_batch, self.run_id, metrics=[metric]),
                        f"{metric.key} at step {metric.step}",
                    )

    def _send(self, record: Record) -> None:
        client, body = self.store.client, record.body
        if record.kind == "tags":
            client.log_batch(self.run_id, tags=[RunTag(key, value) for key, value in body.items()])
        elif record.kind == "file":
            path = self.outbox.folder / body["name"]
            if path.is_file():  # missing after a power failure, or if it was sent and the mark was not written
                client.log_artifact(self.run_id, str(path), body["folder"] or None)
        elif body["status"] == "RUNNING":
            client.update_run(self.run_id, status="RUNNING")
        else:
            client.set_terminated(self.run_id, body["status"], record.time_ms)

    def _send_or_skip(self, send: Callable[[], None], what: str) -> None:
        try:
            send()
        except MlflowException as error:
            if not _is_invalid(error):
                raise
            self._load_last_steps()
            self.skipped.append(f"MLflow rejects {what} ({first_line(error)})")

    def _load_last_steps(self) -> None:
        name = f"run {self.run_id}"
        give_up = f"or delete {self.outbox.folder} to discard its undelivered records"
        try:
            run = self.store.client.get_run(self.run_id)
        except MlflowException as error:
            if not is_absent(error):
                raise
            origin = redact(read_run(self.outbox.folder)["tracking_uri"])
            if origin in ("", portable_uri(self.store.root)):
                raise RunNotFound(
                    f"MLflow store {self.store.display_uri} does not have {name} any longer: restore it, {give_up}."
                ) from error
            remedy = (
                "unset MLFLOW_TRACKING_URI"
                if origin == f"sqlite:///{EMBEDDED}"
                else f"set MLFLOW_TRACKING_URI={origin}"
            )
            raise RunNotFound(
                f"MLflow store {self.store.display_uri} does not have {name}, which belongs to {origin}: {remedy} and "
                f"run {SYNC}, {give_up}."
            ) from error
        if run.info.lifecycle_stage != "active":
            raise RunNotFound(
                f"{name} was deleted from MLflow store {self.store.display_uri}: restore it with "
                f"`{self.store.mlflow_command} runs restore --run-id {self.run_id}`, {give_up}."
            )
        # For each key, a run includes the metric with the largest step.
        self._last_step = {metric.key: metric.step for metric in run.data._metric_objs}


def open_store_and_deliver(root: Path, name: str = DEFAULT_NAME) -> Store:
    """Open the store and deliver all outboxes; those that cannot be delivered are reported on stderr and stay.

    Raises:
        ClipBertError: the store cannot be used; the message lists the undelivered outboxes.
    """
    try:
        store = open_store(root, name)
    except ClipBertError as error:
        if not (left := pending_outboxes(root)):
            raise
        listed = ", ".join(outbox.text for outbox in left)
        raise ClipBertError(f"{error}\nNot delivered yet: {listed}. Run {SYNC} when the store answers.") from error
    for outbox, reason in _deliver_all(store, pending_outboxes(root)):
        if not isinstance(reason, OutboxInUse):
            errors.print(f"Not delivered to MLflow yet: {outbox.text}. {reason}")
    return store


def sync(root: Path, task: str | None = None) -> None:
    """Deliver the outboxes of a task (None: of all tasks) and print what was delivered for each run.

    Raises:
        ClipBertError: an outbox could not be delivered; the message names it and the reason.
    """
    if not (found := pending_outboxes(root, task)):
        console.print(f"Nothing to deliver to MLflow{f' for {task}' if task else ''}.")
        return
    try:
        left = _deliver_all(open_store(root), found)
    except ClipBertError as error:
        left = [(outbox, error) for outbox in found]
    if left:
        reasons = "\n".join(dict.fromkeys(str(reason) for _, reason in left))
        raise ClipBertError(f"Not delivered to MLflow: {', '.join(outbox.text for outbox, _ in left)}.\n{reasons}")


def _deliver_all(store: Store, found: list[PendingOutbox]) -> list[tuple[PendingOutbox, ClipBertError]]:
    """Return the outboxes that are not delivered, each with its error; stop when the store does not answer."""
    left: list[tuple[PendingOutbox, ClipBertError]] = []
    for index, outbox in enumerate(found):
        try:
            console.print(_deliver(store, outbox))
        except (RunNotFound, OutboxInUse) as error:
            left.append((outbox, error))
        except ClipBertError as error:
            return left + [(other, error) for other in found[index:]]
    return left


def _deliver(store: Store, found: PendingOutbox) -> str:
    outbox = Outbox(found.folder, LOCK_TIMEOUT_S)
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
        for what in delivery.skipped:
            errors.print(f"{found.run_name}: {what}; skipped.")
        if status == "FINISHED":
            outbox.remove()
    finally:
        outbox.close()
    parts = []
    if values:
        spread = f" up to step {max(steps)}" if steps else ""
        parts.append(f"{format_count(values)}{spread}")
    parts += [f"status {status}"] if status else []
    return f"{found.run_name}: {', '.join(parts) or 'tags'} delivered to {store.display_uri}."


def _step(record: Record) -> int | None:
    """Return the training step of a record; None for system metrics, which have steps of their own."""
    measured = record.kind == "metrics" and not all(key.startswith(PREFIX) for key in record.body["values"])
    return int(record.body["step"]) if measured else None


def _is_invalid(error: MlflowException) -> bool:
    return str(error.error_code) == "INVALID_PARAMETER_VALUE"
