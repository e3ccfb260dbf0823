"""What a run has for MLflow, on disk until the store has it: an append-only file a run, under mlflow/outbox/."""

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
EMPTY_FROM_BYTES = 1 << 20
POLL_S = 0.1


@dataclass(frozen=True)
class Record:
    """One thing that a run has to say.

    `kind` and what `body` then holds: metrics (step, values by key), tags (by key), status (status: RUNNING or how the
    run ended), file (name, below the outbox; folder, among the run's artifacts).
    """

    sequence: int
    kind: str
    time_ms: int
    body: dict[str, Any]

    @property
    def values(self) -> int:
        """How many metric values it holds."""
        return len(self.body["values"]) if self.kind == "metrics" else 0


class OutboxInUse(ClipBertError):
    """Another process, or another part of this one, delivers this outbox."""


class Outbox:
    """One run's outbox, held by one process at a time: by its training, or by whoever delivers it afterwards.

    Each record is a line with a checksum and a sequence number, handed to the operating system as it comes: killing the
    process loses none. `fsync` makes them outlive the machine too. A torn last line is cut off. delivered.json says up
    to which number MLflow has them, and the last step of each key there; the file is emptied when all are delivered.

    A disk that is full is said once; the records then wait in memory until there is room, and can be delivered from
    there.
    """

    def __init__(self, folder: Path, patience_s: float = 0.0) -> None:
        """Take the outbox in `folder`, made when it is not there.

        Raises:
            OutboxInUse: somebody else has it, for longer than `patience_s`.
            ClipBertError: it cannot be written.
        """
        self.folder = folder
        self._mutex = threading.RLock()
        try:
            self._lock = _lock(folder, patience_s)
            self._file = os.open(folder / RECORDS, os.O_RDWR | os.O_CREAT, 0o666)
            found = _read(folder)
            os.ftruncate(self._file, found.good_bytes)
        except OSError as error:
            raise ClipBertError(
                f"{folder}: cannot be written ({first_line(error)}). It keeps what a run has for MLflow until "
                f"the store has it: give {folder.parent} write permission and some space."
            ) from error
        _open.add(self)
        self.damaged = found.damaged  # numbers of lines
        self._end, self._read_at, self._next = found.good_bytes, found.waiting_from, (0, 0)
        self._delivered, self._delivered_steps = found.delivered, found.delivered_steps
        self._sequence, self._last_ms = max(found.delivered, found.last_sequence), found.last_ms
        self._unwritten: list[Record] = []
        self._complained = False
        self.steps = dict(found.delivered_steps)  # the last step of each key, delivered or waiting
        for record in found.waiting:
            _advance(self.steps, record)

    def describe(self, run: Mapping[str, str]) -> None:
        """Keep what is needed to find the run: run_id, run_name, task, tracking_uri (without its password)."""
        write_json(self.folder / RUN, redact_values(dict(run)))

    def append(self, kind: str, body: Mapping[str, Any]) -> None:
        """Add a record; takes microseconds and never raises for the disk."""
        with self._mutex:
            self._sequence += 1
            self._last_ms = max(self._last_ms, int(time.time() * 1000))
            record = Record(self._sequence, kind, self._last_ms, dict(body))
            _advance(self.steps, record)
            self._unwritten = [waiting for waiting in self._unwritten if waiting.sequence > self._delivered] + [record]
            with self._disk():
                while self._unwritten:
                    line, written = _line(self._unwritten[0]), 0
                    while written < len(line):  # at a known place: what a full disk cut short is written over
                        written += os.pwrite(self._file, line[written:], self._end + written)
                    self._end += len(line)
                    del self._unwritten[0]

    def append_file(self, path: Path, folder: str) -> None:
        """Add a copy of a small file, to become the artifact `folder`/name ("" for the top).

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
        """Make what was appended outlive the machine."""
        with self._disk():
            os.fsync(self._file)

    def next_records(self, values: int) -> list[Record]:
        """The oldest records that are not delivered, with about so many metric values; `mark` moves on from them."""
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

    def mark(self, chunk: list[Record]) -> None:
        """MLflow has what `next_records` gave last."""
        with self._mutex:
            self._read_at, self._delivered = self._next
            for record in chunk:
                _advance(self._delivered_steps, record)
            with self._disk():
                write_json(self.folder / MARK, {"sequence": self._delivered, "steps": self._delivered_steps})
                for record in chunk:
                    if record.kind == "file":
                        shutil.rmtree((self.folder / record.body["name"]).parent, ignore_errors=True)
                if self._delivered == self._sequence and self._end > EMPTY_FROM_BYTES:
                    os.ftruncate(self._file, 0)
                    self._end = self._read_at = 0

    @property
    def empty(self) -> bool:
        """Whether MLflow has everything."""
        return self._delivered == self._sequence

    def close(self) -> None:
        """Let go of it."""
        if self in _open:
            _open.discard(self)
            os.close(self._file)
            os.close(self._lock)

    def remove(self) -> None:
        """Let go of it, and of what it holds."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self.close()

    @contextlib.contextmanager
    def _disk(self) -> Iterator[None]:
        try:
            yield
        except (OSError, ClipBertError) as error:
            if not self._complained:
                self._complained = True
                reason = first_line(error.__cause__ or error)
                errors.print(
                    f"{self.folder}: cannot be written ({reason}). The training goes on; what MLflow does not take at "
                    "once waits in memory until there is room.",
                    markup=False,
                )


@dataclass(frozen=True)
class PendingOutbox:
    """What an outbox holds that MLflow does not have."""

    folder: Path
    run_id: str
    run_name: str
    task: str
    tracking_uri: str
    values: int
    held_by: str | None  # the process that delivers it now

    @property
    def text(self) -> str:
        """As in "120 values of retrieval 2026-01-31 12:00:00"."""
        return f"{format_count(self.values) if self.values else 'the status'} of {self.run_name}"


def format_count(values: int) -> str:
    """As in "1 value"."""
    return f"{values} value{'' if values == 1 else 's'}"


def outbox_folder(root: Path, run_id: str) -> Path:
    """Where the outbox of a run is."""
    return root.resolve() / OUTBOXES / run_id


def read_run(folder: Path) -> dict[str, str]:
    """What `describe` kept; without it, what the folder's name tells."""
    known = {"run_id": folder.name, "run_name": folder.name, "task": "", "tracking_uri": ""}
    with contextlib.suppress(OSError, ValueError, TypeError, AttributeError):
        kept = json.loads((folder / RUN).read_text(encoding="utf-8"))
        known |= {str(key): str(value) for key, value in kept.items()}
    return known


def waiting(root: Path, task: str | None = None) -> list[PendingOutbox]:
    """The outboxes, of a task or of all, that hold something; the oldest first."""
    found: list[tuple[int, PendingOutbox]] = []
    for folder in _folders(root):
        run, state = read_run(folder), _read(folder)
        if state.waiting and task in (None, run["task"]):
            values = sum(record.values for record in state.waiting)
            outbox = PendingOutbox(
                folder, run["run_id"], run["run_name"], run["task"], run["tracking_uri"], values, _holder(folder)
            )
            found.append((state.waiting[0].time_ms, outbox))
    return [outbox for _, outbox in sorted(found, key=lambda pair: pair[0])]


def remove_delivered(root: Path, task: str) -> None:
    """Remove what is left of a task's runs of which MLflow has everything and that nothing goes on with."""
    for folder in _folders(root):
        if read_run(folder)["task"] == task and not _read(folder).waiting:
            with contextlib.suppress(OutboxInUse):
                Outbox(folder).remove()


@dataclass(frozen=True)
class _Found:
    waiting: list[Record]
    waiting_from: int  # where they begin, in bytes
    good_bytes: int  # up to the end of the last whole line
    damaged: list[int]  # numbers of lines, from 1
    last_sequence: int
    last_ms: int
    delivered: int
    delivered_steps: dict[str, int]


def _read(folder: Path) -> _Found:
    """A damaged line between good ones is passed over; what follows the last good one was torn by a kill."""
    delivered, steps = 0, {}
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
        mark = json.loads((folder / MARK).read_text(encoding="utf-8"))
        delivered, steps = int(mark["sequence"]), {str(key): int(step) for key, step in mark["steps"].items()}
    records: list[Record] = []
    damaged: list[int] = []
    doubtful: list[int] = []
    size = good = waiting_from = last = last_ms = 0
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
                waiting_from = size
    return _Found(records, waiting_from, good, damaged, last, last_ms, delivered, steps)


def _line(record: Record) -> bytes:
    """A checksum, the record as JSON, the end of the line."""
    text = json.dumps([record.sequence, record.kind, record.time_ms, record.body], separators=(",", ":")).encode()
    return b"%08x %s\n" % (zlib.crc32(text), text)


def _parse(line: bytes) -> Record | None:
    checksum, _, text = line.rstrip(b"\n").partition(b" ")
    if not line.endswith(b"\n") or checksum != b"%08x" % zlib.crc32(text):
        return None
    return Record(*json.loads(text))


def _advance(steps: dict[str, int], record: Record) -> None:
    if record.kind == "metrics":
        for key in record.body["values"]:
            steps[key] = max(steps.get(key, record.body["step"]), record.body["step"])


def _folders(root: Path) -> list[Path]:
    return sorted(path.parent for path in (root.resolve() / OUTBOXES).glob(f"*/{RECORDS}"))


def _lock(folder: Path, patience_s: float) -> int:
    """An open, locked descriptor; the folder may vanish under it, for who had it removed it, and is then made again."""
    until = time.monotonic() + patience_s
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
                raise OutboxInUse(f"{folder}: process {holder} delivers it now; this one leaves it alone.") from None
            time.sleep(POLL_S)
            continue
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(descriptor), os.stat(folder / LOCK)):
                with contextlib.suppress(OSError):  # a full disk: the lock holds, only unnamed
                    os.ftruncate(descriptor, 0)
                    os.pwrite(descriptor, str(os.getpid()).encode(), 0)
                return descriptor
        os.close(descriptor)


def is_locked(folder: Path) -> bool:
    """Whether a process of this machine holds the outbox, as a training that is under way does."""
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
    """A forked process, such as a data loader's worker, must not keep the locks of a parent that was killed."""
    for outbox in list(_open):
        with contextlib.suppress(OSError):
            outbox.close()


os.register_at_fork(after_in_child=_close_in_child)
