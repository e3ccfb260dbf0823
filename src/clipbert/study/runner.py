"""Execution of a study: its points one after the other, or several at a time, each in a workspace of its own."""

import contextlib
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from queue import Empty, Queue
from types import FrameType

from clipbert.console import console
from clipbert.errors import ClipBertError
from clipbert.files.locks import Timeout, file_lock
from clipbert.project import Project
from clipbert.study.plan import Plan, Point, fingerprint
from clipbert.study.records import VALIDATION, Record, read_record, write_record
from clipbert.study.workspace import PointFailed, PointStopped, Stop, Workspace, environment_of, head, identity

MEASURE = (sys.executable, "-m", "clipbert", "study-point")
POINTS, LOG = "points", "log.txt"


@dataclass
class Study:
    """A plan in a project: which points are finished, and how the others are run.

    Attributes:
        tracking_uri: of the MLflow store.
        measure: the command that evaluates a trained model, before its arguments.
    """

    project: Project
    plan: Plan
    tracking_uri: str
    measure: Sequence[str] = MEASURE
    commit: str = field(init=False)
    fingerprints: dict[str, str] = field(init=False)

    def __post_init__(self) -> None:
        self.commit = head(self.project.root)
        known = identity(self.project.root, self.commit)
        self.fingerprints = {point.name: fingerprint(point, self.plan, known) for point in self.plan.points}

    @property
    def folder(self) -> Path:
        """Where the results are kept."""
        return self.project.study(self.plan.grid.name)

    def point_folder(self, point: Point) -> Path:
        """Folder with the record, the validation predictions and the log of a point."""
        return self.folder / POINTS / point.name

    def records(self) -> dict[str, Record]:
        """Return the records of the finished points by name."""
        found = {
            point.name: read_record(self.point_folder(point), self.fingerprints[point.name])
            for point in self.plan.points
        }
        return {name: record for name, record in found.items() if record is not None}

    @property
    def workspaces(self) -> Path:
        """Where the points are trained, until all are finished."""
        return self.project.root / ".dvc" / "tmp" / "study" / self.plan.grid.name

    def remove_workspaces(self) -> None:
        """Remove the clones in which the points were trained; DVC's cache keeps their outputs."""
        shutil.rmtree(self.workspaces, ignore_errors=True)

    def run(self, jobs: int, gpus: int, on_point: Callable[[Point, Record], None]) -> list[str]:
        """Run the points that are not finished, and return a message for each that failed.

        Args:
            jobs: how many at a time.
            gpus: how many GPUs the jobs share.
            on_point: called for each finished point, in this thread.

        Raises:
            ClipBertError: another process runs this study.
            KeyboardInterrupt, SystemExit: after Ctrl-C or SIGTERM; the running trainings saved their state.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            with file_lock(self.folder / ".lock"), _terminable():
                return _Execution(self, jobs, gpus, on_point).run()
        except Timeout as error:
            raise ClipBertError(
                f"{self.folder}: another process runs this study. Wait for it, or stop it with Ctrl-C there."
            ) from error


class _Execution:
    """One run of a study's unfinished points."""

    def __init__(self, study: Study, jobs: int, gpus: int, on_point: Callable[[Point, Record], None]) -> None:
        self.study, self.gpus, self.on_point = study, gpus, on_point
        done = study.records()
        self.total, self.finished = len(study.fingerprints), len(done)
        self.pending = [point for point in study.plan.points if point.name not in done]
        self.jobs = max(1, min(jobs, len(self.pending)))
        self._queue = list(self.pending)
        self.stop, self.taking = Stop(), threading.Lock()
        self.results: Queue[tuple[Point, Record | Exception]] = Queue()
        self.started = time.monotonic()
        self.ended = 0

    def run(self) -> list[str]:
        if not self.pending:
            return []
        threads = [threading.Thread(target=self._work, args=(job,), daemon=True) for job in range(self.jobs)]
        failures: list[str] = []
        try:
            for thread in threads:
                thread.start()
            while self.ended < len(self.pending):
                with contextlib.suppress(Empty):
                    self._report(*self.results.get(timeout=0.5), failures)
                if not any(thread.is_alive() for thread in threads) and self.results.empty():
                    break
        finally:
            self.stop.requested.set()
            for thread in threads:
                thread.join()
        return failures

    def _report(self, point: Point, result: Record | Exception, failures: list[str]) -> None:
        self.ended += 1
        if isinstance(result, Exception):
            failures.append(f"{point.name}: {result}")
            console.print(f"{point.name}: failed. {result}")
            return
        self.finished += 1
        self.on_point(point, result)
        left = len(self.pending) - self.ended
        each = (time.monotonic() - self.started) / self.ended
        remaining = f"; about {each * left / 60:.0f} min left" if left else ""
        base = next(one for one in result.evaluations if one.own and one.clips == self.study.plan.base_clips)
        metric = next(iter(base.metrics))
        value = f"{metric} {base.metrics[metric]:.1f} on validation"
        console.print(f"[{self.finished}/{self.total}] {point.name}: {value}, {result.wall_s:.0f} s{remaining}")

    def _work(self, job: int) -> None:
        """Run points until none is left; a point that a killed study began in this job's workspace comes first."""
        study = self.study
        folder = study.workspaces / f"job-{job}"
        environment = environment_of(study.project.root, study.tracking_uri, job, self.jobs, self.gpus)
        workspace = Workspace(study.project.root, folder, study.commit, environment, self.stop)
        begun = folder.with_name(f"{folder.name}.point")
        last = begun.read_text(encoding="utf-8") if begun.is_file() else None
        ready = False
        while (point := self._take(last)) is not None and not self.stop.requested.is_set():
            try:
                log = study.point_folder(point) / LOG
                if not ready:
                    workspace.prepare(log)
                    ready = True
                begun.write_text(point.name, encoding="utf-8")
                self.results.put((point, self._run_point(workspace, point, log)))
            except PointStopped:
                return
            except (PointFailed, ClipBertError, OSError) as error:
                self.results.put((point, error))
            last = None

    def _take(self, preferred: str | None) -> Point | None:
        with self.taking:
            if not (queue := self._queue):
                return None
            point = next((one for one in queue if one.name == preferred), queue[0])
            queue.remove(point)
            return point

    def _run_point(self, workspace: Workspace, point: Point, log: Path) -> Record:
        study, task, start = self.study, self.study.plan.grid.task, time.monotonic()
        folder = study.point_folder(point)
        workspace.train(point, task, log)
        workspace.measure(study.plan, study.measure, folder / VALIDATION, log)
        workspace.deliver(point.name, log)
        known = {
            "name": point.name,
            "fingerprint": study.fingerprints[point.name],
            "commit": study.commit,
            "wall_s": round(time.monotonic() - start, 1),
        }
        return write_record(folder, workspace.folder, task, known)


@contextlib.contextmanager
def _terminable() -> Iterator[None]:
    """Turn SIGTERM into SystemExit(143), so that the running trainings are stopped too."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
