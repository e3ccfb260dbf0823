"""Workspace of a study: a clone of the project in which `dvc exp run` trains one point after the other.

It shares the git objects and DVC's cache of the project, so data and frames are linked, not copied. Unlike the folder
of `dvc exp run --temp` it stays until the study has finished: a killed training resumes from its checkpoint, and data
and frames are checked out once for all points.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil

from clipbert.config.yaml_io import dump_yaml, parse_yaml
from clipbert.errors import ClipBertError
from clipbert.redact import redact
from clipbert.study.plan import Plan, Point

PARAMS, PROJECT_ID = "params.yaml", Path("mlflow", "project.json")
IDENTITY = ("src/clipbert", "dvc.yaml", "data.dvc")  # paths whose content at a commit decides the results
LINKS = "reflink,hardlink,symlink,copy"
TAIL_LINES = 5
GRACE_S = 30.0  # for a training to save its checkpoint
USER = {"user.name": "clipbert", "user.email": "clipbert@localhost"}  # where git knows no user


class PointFailed(Exception):
    """A command of a point failed; the message has the end of its output."""


class PointStopped(Exception):
    """The study was stopped while a command of a point ran."""


class Stop:
    """A request to stop, which ends the running commands with their process groups."""

    def __init__(self) -> None:
        self.requested = threading.Event()

    def run(self, command: Sequence[str], cwd: Path, environment: Mapping[str, str], log: Path) -> int:
        """Run a command, append its output to `log`, and return its exit code.

        Raises:
            PointStopped: a stop was requested; the command has ended.
        """
        with log.open("ab") as file:
            process = subprocess.Popen(
                command, cwd=cwd, env=environment, stdin=subprocess.DEVNULL, stdout=file, stderr=file,
                start_new_session=True,
            )  # fmt: skip
        while True:
            with contextlib.suppress(subprocess.TimeoutExpired):
                return process.wait(timeout=0.2)
            if self.requested.is_set():
                _end_group(process)
                raise PointStopped


def _end_group(process: "subprocess.Popen[bytes]") -> None:
    """Interrupt a command with its children, so that a training saves its state, and kill what is left."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGINT)
    deadline = time.monotonic() + GRACE_S
    while time.monotonic() < deadline:
        process.poll()
        try:
            os.killpg(process.pid, 0)
        except ProcessLookupError:
            return
        time.sleep(0.1)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def head(root: Path) -> str:
    """Return the commit from which a study starts.

    Raises:
        ClipBertError: the folder is not a DVC project with a commit, or files differ from it.
    """
    if not (root / "dvc.yaml").is_file():
        raise ClipBertError(f"{root}: no dvc.yaml here. Run the command in the project folder.")
    commit = _git(root, "rev-parse", "--verify", "--quiet", "HEAD")
    if commit is None:
        raise ClipBertError(
            f"{root}: a study needs a git commit to start from. Run `git init && git add -A && git commit -m Start`."
        )
    status = _git(root, "status", "--porcelain", "--", ".", f":(exclude){PROJECT_ID}") or ""
    changed = [line[3:] for line in status.splitlines() if not line.startswith("??") or line[3:] == "dvc.lock"]
    if changed:
        named = ", ".join(changed[:3]) + (f" and {len(changed) - 3} more" if len(changed) > 3 else "")
        raise ClipBertError(
            f"{named}: not committed. A study starts from a commit, so that its points can be repeated: "
            "`git add -A && git commit -m 'Before the study'`."
        )
    return commit


def identity(root: Path, commit: str) -> str:
    """Return what identifies the code, the pipeline and the data at a commit."""
    return " ".join(_git(root, "rev-parse", "--verify", "--quiet", f"{commit}:./{path}") or "-" for path in IDENTITY)


def environment_of(root: Path, tracking_uri: str, job: int, jobs: int, gpus: int) -> dict[str, str]:
    """Return the environment of the commands of a job.

    Args:
        tracking_uri: of the project's MLflow store, so that the runs outlive the workspace.
        job: its number, from 0.
        gpus: how many GPUs the jobs share.
    """
    values = os.environ | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
        "MLFLOW_TRACKING_URI": tracking_uri,
        "DVC_NO_ANALYTICS": "1",
        "PYTHONUNBUFFERED": "1",
    }
    if gpus > 1 and jobs > 1:
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        devices = visible.split(",") if visible else [str(number) for number in range(gpus)]
        values["CUDA_VISIBLE_DEVICES"] = devices[job % len(devices)]
    if gpus == 0 and jobs > 1 and "OMP_NUM_THREADS" not in values:
        values["OMP_NUM_THREADS"] = str(max(1, len(os.sched_getaffinity(0)) // jobs))
    return values


class Workspace:
    """A clone of the project for one job."""

    def __init__(self, root: Path, folder: Path, commit: str, environment: Mapping[str, str], stop: Stop) -> None:
        """
        Args:
            root: the project's folder.
            folder: of the clone.
            commit: from which the points start.
        """
        self.root, self.folder, self.commit = root, folder, commit
        self.environment, self.stop = environment, stop

    def prepare(self, log: Path) -> None:
        """Create the clone, or take over the one of a killed study.

        Raises:
            PointFailed: git or DVC failed.
        """
        _end_leftovers(self.folder)
        if not (self.folder / ".dvc" / "config.local").is_file():
            shutil.rmtree(self.folder, ignore_errors=True)
            self.folder.parent.mkdir(parents=True, exist_ok=True)
            self._run(
                ["git", "clone", "--quiet", "--shared", "--no-checkout", str(self.root), str(self.folder)],
                log,
                self.root,
            )
            for key, value in USER.items():
                self._run(["git", "config", key, _git(self.root, "config", key) or value], log)
            self._run(["git", "checkout", "--quiet", "--detach", self.commit], log)
            own = self.root / ".dvc" / "config.local"
            new = self.folder / ".dvc" / "config.local.tmp"
            shutil.copy(own, new) if own.is_file() else new.touch()
            cache = self._dvc_output("cache", "dir")
            new.rename(new.with_name("config.local"))
            self._run(self._dvc("cache", "dir", "--local", cache), log)
            self._run(self._dvc("config", "--local", "cache.type", LINKS), log)
        self._run(["git", "fetch", "--quiet", str(self.root), self.commit], log)
        identity_file = self.root / PROJECT_ID
        self._reset(log)
        if identity_file.is_file():
            (self.folder / PROJECT_ID).parent.mkdir(exist_ok=True)
            shutil.copy(identity_file, self.folder / PROJECT_ID)

    def train(self, point: Point, task: str, log: Path) -> None:
        """Train and evaluate a point as the DVC experiment `point.name`; a killed training resumes.

        Raises:
            PointFailed: `dvc exp run` failed.
        """
        self._reset(log)
        for reference in self.references(point.name):
            self._run(["git", "update-ref", "-d", reference], log)
        self._write_params(point)
        self._run(self._dvc("exp", "run", "--name", point.name, f"evaluate@{task}"), log)
        if not self.references(point.name):
            raise PointFailed(f"dvc exp run made no experiment {point.name}; its output is in {log}")

    def measure(self, plan: Plan, command: Sequence[str], out: Path, log: Path) -> None:
        """Evaluate the trained model on the validation split with every number of clips and aggregation.

        Args:
            command: what measures, before its arguments.
            out: the folder that it writes.

        Raises:
            PointFailed: the command failed.
        """
        arguments = [plan.grid.task, "--clips", ",".join(map(str, plan.clips)), "--out", str(out)]
        if plan.grid.aggregations:
            arguments += ["--aggregations", ",".join(plan.grid.aggregations)]
        self._run([*command, *arguments], log)

    def references(self, name: str) -> list[str]:
        """Return the git references of the experiments with a name."""
        listed = _git(self.folder, "for-each-ref", "--format=%(refname)", "refs/exps") or ""
        return [line for line in listed.splitlines() if line.rsplit("/", 1)[-1] == name and "/exec/" not in line]

    def deliver(self, name: str, log: Path) -> None:
        """Copy an experiment into the project's own git repository, whose DVC cache already has its files."""
        for reference in self.references(name):
            command = ["git", "fetch", "--quiet", "--no-write-fetch-head", str(self.folder)]
            self._run([*command, f"+{reference}:{reference}"], log, self.root)

    def _write_params(self, point: Point) -> None:
        path = self.folder / PARAMS
        values = parse_yaml(path.read_text(encoding="utf-8"))
        for override in point.overrides:
            name, _, text = override.partition("=")
            place: Any = values
            *sections, last = name.split(".")
            for section in sections:
                place = place.setdefault(section, {})
            place[last] = parse_yaml(text)
        path.write_text(dump_yaml(values), encoding="utf-8")

    def _reset(self, log: Path) -> None:
        self._run(["git", "reset", "--quiet", "--hard", self.commit], log)

    def _dvc(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "dvc", *arguments]

    def _dvc_output(self, *arguments: str) -> str:
        done = subprocess.run(
            self._dvc(*arguments), cwd=self.root, env=self.environment, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise PointFailed(redact(done.stderr.strip()))
        return done.stdout.strip()

    def _run(self, command: Sequence[str], log: Path, cwd: Path | None = None) -> None:
        log.parent.mkdir(parents=True, exist_ok=True)
        code = self.stop.run(command, cwd or self.folder, self.environment, log)
        if code:
            lines = [line for line in redact(log.read_text(errors="replace")).splitlines() if line.strip()]
            tail = "\n".join(f"  {line}" for line in lines[-TAIL_LINES:])
            shown = "dvc exp run" if "exp" in command else " ".join(command[:4])
            raise PointFailed(f"{shown}: exit code {code}; the whole output is in {log}\n{tail}")


def _end_leftovers(folder: Path) -> None:
    """End the processes that a killed study left in a workspace."""
    if not folder.is_dir():
        return
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if Path(process.cwd()).is_relative_to(folder.resolve()):
                found.append(process)
    for process in found:
        with contextlib.suppress(psutil.Error):
            process.send_signal(signal.SIGTERM)
    for process in psutil.wait_procs(found, GRACE_S)[1]:
        with contextlib.suppress(psutil.Error):
            process.kill()


def _git(root: Path, *arguments: str) -> str | None:
    """Return the output of git; None where it fails."""
    done = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, check=False)
    return done.stdout.strip("\n") if done.returncode == 0 else None
