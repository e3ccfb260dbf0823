"""Running of the kit's parts: each in a process group of its own, within its time, its result kept at once."""

import contextlib
import datetime
import hashlib
import importlib.metadata
import json
import os
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu.parts import Measure, Part
from benchmarks.gpu.project import open_project
from clipbert.files.atomic import write_json

REPOSITORY = Path(__file__).parents[2]
CODE = ("src/clipbert", "benchmarks", "tests/gpu", "tests/support", "recipes")
VERSIONS = ("transformers", "numpy", "safetensors", "triton", "pyarrow", "pillow")
DRY_FACTOR = 4  # of the time limits on a CPU
LEAST_S = 10.0  # with less time left no part starts
SHOWN_LINES = 15  # of the output of a part that failed
GRACE_S = 5.0  # between SIGTERM and SIGKILL


def code_digest(root: Path = REPOSITORY, folders: Sequence[str] = CODE) -> str:
    """Return the SHA-256 of the program files that the parts run."""
    found = hashlib.sha256()
    for folder in folders:
        for path in sorted((root / folder).rglob("*")):
            if path.suffix in (".py", ".yaml") and path.is_file():
                found.update(f"{path.relative_to(root)}\0".encode() + path.read_bytes())
    return found.hexdigest()


def machine() -> dict[str, Any]:
    """Return the GPU or processor, and the versions that figures depend on."""
    on_gpu = torch.cuda.is_available()
    versions: dict[str, str | None] = {"Python": platform.python_version(), "torch": torch.__version__}
    if on_gpu:
        versions |= {"CUDA": torch.version.cuda, "cuDNN": str(torch.backends.cudnn.version())}
    for name in VERSIONS:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = None
    return {
        "device": torch.cuda.get_device_name() if on_gpu else processor_name(),
        "type": "cuda" if on_gpu else "cpu",
        "memory_gb": round(torch.cuda.get_device_properties(0).total_memory / 1e9, 1) if on_gpu else None,
        "cores": len(os.sched_getaffinity(0)),
        "system": platform.platform(),
        "driver": driver_version() if on_gpu else None,
        "versions": versions,
    }


def processor_name() -> str:
    """Return the processor's name as Linux has it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.machine())


def driver_version() -> str | None:
    """Return the version of the NVIDIA driver; None where nvidia-smi does not tell it."""
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout.split("\n")[0]
    except (OSError, subprocess.SubprocessError):
        return None


def run_limited(command: Sequence[str], log: Path, limit_s: float) -> tuple[str, float]:
    """Run a command with its output in a file; return "ok", "failed (CODE)" or "timeout", and its seconds.

    At the limit its whole process group is ended, loader processes and subprocesses included.
    """
    started = time.monotonic()
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, stdout=output, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, start_new_session=True
        )
        try:
            code = process.wait(limit_s)
        except subprocess.TimeoutExpired:
            end_group(process)
            return "timeout", time.monotonic() - started
        except BaseException:
            end_group(process)
            raise
    kill_group(process.pid, signal.SIGKILL)  # what it left behind would hold memory of the GPU
    return "ok" if code == 0 else f"failed ({code})", time.monotonic() - started


def end_group(process: "subprocess.Popen[bytes]") -> None:
    """End a process and its group: politely, then by force."""
    kill_group(process.pid, signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(GRACE_S)
    kill_group(process.pid, signal.SIGKILL)
    process.wait()


def kill_group(group: int, number: signal.Signals) -> None:
    """Send a signal to a process group that may have ended."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, number)


class Kit:
    """The results in `work`/gpu.json, and the running of what they lack."""

    def __init__(self, work: Path, dry_run: bool, deadline: float, digest: str | None = None) -> None:
        """
        Args:
            deadline: on `time.monotonic`, after which no part runs.
            digest: of the code; None: computed.
        """
        self.work, self.dry_run, self.deadline = work, dry_run, deadline
        self.folder = work / "dry-run" if dry_run else work
        self.file, self.logs = self.folder / "gpu.json", self.folder / "logs"
        self.logs.mkdir(parents=True, exist_ok=True)
        self.machine, self.digest = machine(), digest or code_digest()

    def run(self, parts: Iterable[Part], again: bool = False) -> dict[str, Any]:
        """Run the parts that have no result of the same code and machine, and return the results of all."""
        if self.machine["type"] != "cuda" and not self.dry_run:
            raise SystemExit("no GPU: torch.cuda.is_available() is false. Check every part without one: --dry-run")
        started = time.monotonic()
        project, data = open_project(self.work, tiny=self.dry_run)
        kept = {} if again else self._finished(data)
        rows = []
        parts = list(parts)
        for part in parts:
            if part.name in kept:
                print(f"{part.name}: finished before", flush=True)
            elif self.deadline - time.monotonic() < LEAST_S:
                kept[part.name] = self._row(part, "not run", "the time was used up", 0.0)
            else:
                print(f"{part.name}: {part.title} ...", end=" ", flush=True)
                kept[part.name] = self._run(part, project.root)
                print(f"{kept[part.name]['status']}, {kept[part.name]['seconds']:.0f} s", flush=True)
            rows = list(kept.values())
            self._write(rows, data, time.monotonic() - started)
        return self._write(rows, data, time.monotonic() - started)

    def _finished(self, data: str) -> dict[str, dict[str, Any]]:
        """Return the rows of parts that ended well with this code, machine and data."""
        try:
            results = json.loads(self.file.read_text(encoding="utf-8"))
            same = results["machine"] == self.machine and results["data"] == data
            return {row["name"]: row for row in results["parts"] if same and self._is_finished(row)}
        except (OSError, ValueError, KeyError, TypeError):
            return {}

    def _is_finished(self, row: dict[str, Any]) -> bool:
        return bool(row["status"] == "ok" and row["code"] == self.digest)

    def _run(self, part: Part, project: Path) -> dict[str, Any]:
        """Run a part and return its row."""
        result, log = self.folder / f"{part.name}.json", self.logs / f"{part.name}.log"
        result.unlink(missing_ok=True)
        command = part.dry or part.command if self.dry_run else part.command
        places = {"work": self.work, "project": project, "json": result}
        words = [word.format_map(places) for word in command]
        limit = min(part.limit_s * (DRY_FACTOR if self.dry_run else 1), self.deadline - time.monotonic())
        status, seconds = run_limited([sys.executable, "-m", *words], log, limit)
        measures: list[Measure] = []
        if status == "ok":
            try:
                measures = part.measures(json.loads(result.read_text(encoding="utf-8")))
            except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
                status = f"failed (its result cannot be read: {type(error).__name__}: {error})"
        detail = ""
        if status != "ok":
            lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
            print(*(f"  {line}" for line in ["", *lines[-SHOWN_LINES:]]), sep="\n", flush=True)
            last = next((line.strip() for line in reversed(lines) if line.strip()), "no output")
            detail = f"after {seconds:.0f} of {limit:.0f} s: {last[:120]}"
        result.unlink(missing_ok=True)
        return self._row(part, status, detail, seconds, measures)

    def _row(
        self, part: Part, status: str, detail: str, seconds: float, measures: Iterable[Measure] = ()
    ) -> dict[str, Any]:
        rows = [{**asdict(measure), "met": measure.met} for measure in measures]
        row = {"name": part.name, "title": part.title, "status": status, "detail": detail}
        return {**row, "seconds": round(seconds, 1), "code": self.digest, "measures": rows}

    def _write(self, rows: list[dict[str, Any]], data: str, seconds: float) -> dict[str, Any]:
        """Write and return the results so far."""
        results = {
            "date": datetime.date.today().isoformat(),
            "dry_run": self.dry_run,
            "data": data,
            "seconds": round(sum(row["seconds"] for row in rows), 1),
            "machine": self.machine,
            "parts": rows,
        }
        write_json(self.file, results)
        return results
