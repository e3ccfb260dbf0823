"""Outbox of a run: an append-only file under mlflow/outbox/ with the records that MLflow does not have yet."""

import contextlib
import fcntl
import json
import os
import shutil
import threading
import time
import weakref
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clipbert.console import errors
from clipbert.errors import ClipBertError, first_line
from clipbert.files.atomic import write_errors, write_json
from clipbert.redact import redact_values

OUTBOXES = Path("mlflow", "outbox")
RECORDS, MARK, RUN, LOCK, FILES = "records.jsonl", "delivered.json", "run.json", "lock", "files"
TRUNCATE_FROM_BYTES = 1 << 20
POLL_S = 0.1


@dataclass(frozen=True)
class Record:
    """One entry of an outbox.

    `kind` determines the keys of `body`: metrics (step, values by key), tags (by key), status (status: RUNNING or how
    the run ended), file (name, below the outbox; folder, among the run's artifacts).
    """

    sequence: int
    kind: str
    time_ms: int
    body: dict[str, Any]

    @property
    def values(self) -> int:
        """The number of metric values."""
        return len(self.body["values"]) if self.kind == "metrics" else 0


class OutboxInUse(ClipBertError):
    """Another process, or another object of this process, holds the outbox."""


class Outbox:
    """Outbox of one run, held by one process at a time: its training, or a later delivery.

    Each record is a line with a checksum and a sequence number that is written to the file at once, so a killed process
    loses none; after `fsync` they also survive a failure of the machine. An incomplete last line is cut off.
    delivered.json holds the number of the last record that MLflow has and the last step of each key. The file is
    truncated once all records are delivered.

    An error of the disk is reported once. The records then stay in memory, from where they can be delivered, until they
    can be written.
    """

    def __init__(self, folder: Path, timeout_s: float = 0.0) -> None:
        """Lock the outbox in `folder`; create it if there is none.

        Args:
            timeout_s: seconds to wait while another process holds it.

        Raises:
            OutboxInUse: another process holds it for longer than `timeout_s`.
            ClipBertError: it cannot be written.
        """
        self.folder = folder
        self._mutex = threading.RLock()
        try:
            self._lock = _lock(folder, timeout_s)
            self._file = os.open(folder / RECORDS, os.O_RDWR | os.O_CREAT, 0o666)
            found = _read(folder)
            os.ftruncate(self._file, found.good_bytes)
        except OSError as error:
            raise ClipBertError(
                f"{folder}: cannot be written ({first_line(error)}). It stores the records of a run until MLflow has "
                f"them: make {folder.parent} writable and free some disk space."
            ) from error
        _open.add(self)
        self.damaged = found.damaged  # numbers of lines
        self._end, self._read_at, self._next = found.good_bytes, found.pending_from, (0, 0)
        self._delivered, self._delivered_steps = found.delivered, found.delivered_steps
        self._sequence, self._last_ms = max(found.delivered, found.last_sequence), found.last_ms
        self._unwritten: list[Record] = []
        self._disk_error_reported = False
        self.steps = dict(found.delivered_steps)  # the last step of each key, delivered or pending
        for record in found.pending:
            _update_steps(self.steps, record)

    def write_run(self, run: Mapping[str, str]) -> None:
        """Store what is needed to find the run: run_id, run_name, task, tracking_uri (without its password)."""
        write_json(self.folder / RUN, redact_values(dict(run)))

    def append(self, kind: str, body: Mapping[str, Any]) -> None:
        """Add a record; takes microseconds and raises nothing for errors of the disk."""
        with self._mutex:
            self._sequence += 1
            self._last_ms = max(self._last_ms, int(time.time() * 1000))
            record = Record(self._sequence, kind, self._last_ms, dict(body))
            _update_steps(self.steps, record)
            self._unwritten = [other for other in self._unwritten if other.sequence > self._delivered] + [record]
            with self._report_disk_errors():
                while self._unwritten:
                    line, written = _line(self._unwritten[0]), 0
                    while written < len(line):  # at a fixed offset: overwrites what a full disk cut short
                        written += os.pwrite(self._file, line[written:], self._end + written)
                    self._end += len(line)
                    del self._unwritten[0]

    def append_file(self, path: Path, folder: str) -> None:
        """Add a copy of a small file, to become the artifact `folder`/name ("" for the top folder).

        Raises:
            ClipBertError: it cannot be copied.
        """
        with self._mutex:
            name = Path(FILES, f"{self._sequence + 1:08d}", path.name)
            with write_errors(self.folder / name):
                (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, self.folder / name)
            self.append("file", {"name": str(name), "folder": folder})

    def fsync(self) -> None:
        """Flush the records to the disk, so that they survive a failure of the machine."""
        with self._report_disk_errors():
            os.fsync(self._file)

    def next_records(self, values: int) -> list[Record]:
        """Return the oldest records that are not delivered, with about `values` metric values."""
        with self._mutex:
            chunk: list[Record] = []
            count, at, last = 0, self._read_at, self._delivered
            with open(self._file, "rb", closefd=False) as file:
                file.seek(at)
                while at < self._end and count < values:
                    line = file.readline()
                    at += len(line)
                    record = _parse(line)
                    if record is not None and record.sequence > last:
                        chunk.append(record)
                        last, count = record.sequence, count + record.values
            if at >= self._end:
                chunk += [record for record in self._unwritten if record.sequence > last]
            self._next = (at, chunk[-1].sequence if chunk else last)
            return chunk

    def mark_delivered(self, chunk: list[Record]) -> None:
        """Record that MLflow has the last result of `next_records`."""
        with self._mutex:
            self._read_at, self._delivered = self._next
            for record in chunk:
                _update_steps(self._delivered_steps, record)
            with self._report_disk_errors():
                write_json(self.folder / MARK, {"sequence": self._delivered, "steps": self._delivered_steps})
                for record in chunk:
                    if record.kind == "file":
                        shutil.rmtree((self.folder / record.body["name"]).parent, ignore_errors=True)
                if self._delivered == self._sequence and self._end > TRUNCATE_FROM_BYTES:
                    os.ftruncate(self._file, 0)
                    self._end = self._read_at = 0

    @property
    def empty(self) -> bool:
        """Whether MLflow has all records."""
        return self._delivered == self._sequence

    def close(self) -> None:
        """Close the file and release the lock."""
        if self in _open:
            _open.discard(self)
            os.close(self._file)
            os.close(self._lock)

    def remove(self) -> None:
        """Delete the outbox and release the lock."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self.close()

    @contextlib.contextmanager
    def _report_disk_errors(self) -> Iterator[None]:
        try:
            yield
        except (OSError, ClipBertError) as error:
            if not self._disk_error_reported:
                self._disk_error_reported = True
                reason = first_line(error.__cause__ or error)
                errors.print(
                    f"{self.folder}: cannot be written ({reason}). The training continues; records that MLflow does "
                    "not have stay in memory until the disk has space.",
                )


@dataclass(frozen=True)
class PendingOutbox:
    """An outbox with records that MLflow does not have."""

    folder: Path
    run_id: str
    run_name: str
    task: str
    tracking_uri: str
    values: int
    held_by: str | None  # the process that delivers it now

    @property
    def text(self) -> str:
        """A description such as "120 values of retrieval 2026-01-31 12:00:00"."""
        return f"{format_count(self.values) if self.values else 'the status'} of {self.run_name}"


def format_count(values: int) -> str:
    """Return a number of values in words, such as "1 value"."""
    return f"{values} value{'' if values == 1 else 's'}"


def outbox_folder(root: Path, run_id: str) -> Path:
    """Return the folder of a run's outbox."""
    return root.resolve() / OUTBOXES / run_id


def read_run(folder: Path) -> dict[str, str]:
    """Return what `Outbox.write_run` stored; values that are missing come from the folder's name or are empty."""
    known = {"run_id": folder.name, "run_name": folder.name, "task": "", "tracking_uri": ""}
    with contextlib.suppress(OSError, ValueError, TypeError, AttributeError):
        stored = json.loads((folder / RUN).read_text(encoding="utf-8"))
        known |= {str(key): str(value) for key, value in stored.items()}
    return known


def pending_outboxes(root: Path, task: str | None = None) -> list[PendingOutbox]:
    """Return the outboxes of a task (None: of all tasks) with undelivered records, oldest first."""
    found: list[tuple[int, PendingOutbox]] = []
    for folder in _folders(root):
        run, state = read_run(folder), _read(folder)
        if state.pending and task in (None, run["task"]):
            values = sum(record.values for record in state.pending)
            outbox = PendingOutbox(
                folder, run["run_id"], run["run_name"], run["task"], run["tracking_uri"], values, _holder(folder)
            )
            found.append((state.pending[0].time_ms, outbox))
    return [outbox for _, outbox in sorted(found, key=lambda pair: pair[0])]


def remove_delivered(root: Path, task: str) -> None:
    """Remove the outboxes of a task that have no undelivered records and that no process holds."""
    for folder in _folders(root):
        if read_run(folder)["task"] == task and not _read(folder).pending:
            with contextlib.suppress(OutboxInUse):
                Outbox(folder).remove()


@dataclass(frozen=True)
class _OutboxState:
    pending: list[Record]
    pending_from: int  # offset of the first one, in bytes
    good_bytes: int  # offset of the end of the last complete line
    damaged: list[int]  # numbers of lines, from 1
    last_sequence: int
    last_ms: int
    delivered: int
    delivered_steps: dict[str, int]


def _read(folder: Path) -> _OutboxState:
    """Read an outbox; damaged lines between good ones are skipped, and those after the last good one were cut off."""
    delivered, steps = 0, {}
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
        mark = json.loads((folder / MARK).read_text(encoding="utf-8"))
        delivered, steps = int(mark["sequence"]), {str(key): int(step) for key, step in mark["steps"].items()}
    records: list[Record] = []
    damaged: list[int] = []
    doubtful: list[int] = []
    size = good = pending_from = last = last_ms = 0
    with contextlib.suppress(FileNotFoundError), (folder / RECORDS).open("rb") as file:
        for number, line in enumerate(file, 1):
            size += len(line)
            record = _parse(line)
            if record is None:
                doubtful.append(number)
                continue
            damaged += doubtful
            doubtful, good = [], size
            last, last_ms = record.sequence, record.time_ms
            if record.sequence > delivered:
                records.append(record)
            else:
                pending_from = size
    return _OutboxState(records, pending_from, good, damaged, last, last_ms, delivered, steps)


def _line(record: Record) -> bytes:
    """Return a checksum and the record as JSON, as one line."""
    text = json.dumps([record.sequence, record.kind, record.time_ms, record.body], separators=(",", ":")).encode()
    return b"%08x %s\n" % (zlib.crc32(text), text)


def _parse(line: bytes) -> Record | None:
    checksum, _, text = line.rstrip(b"\n").partition(b" ")
    if not line.endswith(b"\n") or checksum != b"%08x" % zlib.crc32(text):
        return None
    return Record(*json.loads(text))


def _update_steps(steps: dict[str, int], record: Record) -> None:
    if record.kind == "metrics":
        for key in record.body["values"]:
            steps[key] = max(steps.get(key, record.body["step"]), record.body["step"])


def _folders(root: Path) -> list[Path]:
    return sorted(path.parent for path in (root.resolve() / OUTBOXES).glob(f"*/{RECORDS}"))


def _lock(folder: Path, timeout_s: float) -> int:
    """Return an open, locked descriptor; if the previous holder removed the folder meanwhile, it is created again."""
    until = time.monotonic() + timeout_s
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o666)
        except FileNotFoundError:
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(descriptor, 20, 0).decode() or "unknown"
            os.close(descriptor)
            if time.monotonic() > until:
                raise OutboxInUse(f"{folder}: process {holder} is delivering it.") from None
            time.sleep(POLL_S)
            continue
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(descriptor), os.stat(folder / LOCK)):
                with contextlib.suppress(OSError):  # on a full disk the lock is held without its process id
                    os.ftruncate(descriptor, 0)
                    os.pwrite(descriptor, str(os.getpid()).encode(), 0)
                return descriptor
        os.close(descriptor)


def is_locked(folder: Path) -> bool:
    """Return whether a process of this machine, such as a running training, holds the outbox."""
    return _holder(folder) is not None


def _holder(folder: Path) -> str | None:
    with contextlib.suppress(OSError), (folder / LOCK).open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return file.read().decode() or "unknown"
    return None


_open: "weakref.WeakSet[Outbox]" = weakref.WeakSet()


def _close_in_child() -> None:
    """Close the outboxes in a forked process, such as a data loader's worker, which would keep the parent's locks."""
    for outbox in list(_open):
        with contextlib.suppress(OSError):
            outbox.close()


os.register_at_fork(after_in_child=_close_in_child)
