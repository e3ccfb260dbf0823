"""How much processor time does each stage take with the recipe `small`, per video, frame, step and text?

    python -m benchmarks.stage_times PROJECT [--threads 1 2]

PROJECT is a folder with `data/` and `params.yaml` with the recipe, such as `benchmarks.real_videos --work` leaves. Its
frame cache, features and model are made again. Trainings that differ in one thing separate features, steps and
validations. Times are of the commands' processes, their workers included; `clipbert recommend` uses the rates.
"""

import argparse
import json
import os
import re
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from rich.table import Table

COMMAND = (sys.executable, "-m", "clipbert")
TRAININGS = {  # tasks.retrieval.epochs, which is also the number of validations, and train.min_steps
    "train: features, one epoch": (1, 1),
    "train: one epoch": (1, 1),
    "train: 40 steps": (1, 40),
    "train: 40 steps, 10 validations": (10, 40),
}


class Used(NamedTuple):
    """Time of a command, in seconds."""

    cpu_s: float
    wall_s: float


def run(project: Path, threads: int, *command: str) -> Used:
    """Run a `clipbert` command.

    Raises:
        SystemExit: it failed.
    """
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "OMP_WAIT_POLICY": "PASSIVE"}
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    done = subprocess.run((*COMMAND, *command), cwd=project, env=environment, capture_output=True, text=True)
    after, wall = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic() - started
    if done.returncode:
        raise SystemExit(f"clipbert {' '.join(command)} ended with {done.returncode}:\n{done.stderr}")
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    kept = [line for line in done.stdout.splitlines() if re.search(r" steps in | computed| decoded", line)]
    print(f"{cpu:8.1f} CPU s {wall:8.1f} wall s  clipbert {' '.join(command)}", *kept, sep="\n  ", flush=True)
    return Used(cpu, wall)


def measure(project: Path, threads: int) -> dict[str, dict[str, float]]:
    """Return {stage: {"cpu_s", "wall_s"}} of every stage after ingest."""
    found: dict[str, Used] = {"ingest": run(project, threads, "ingest"), "validate": run(project, threads, "validate")}
    for folder in ("frames", "features"):
        shutil.rmtree(project / "artifacts" / folder, ignore_errors=True)
    found["frames"] = run(project, threads, "frames")
    run(project, threads, "pretrained", "get")
    for name, (epochs, steps) in TRAININGS.items():
        settings = ("--set", f"tasks.retrieval.epochs={epochs}", "--set", f"train.min_steps={steps}")
        found[name] = run(project, threads, "train", "retrieval", *settings)
    found["evaluate"] = run(project, threads, "evaluate", "retrieval")
    found["register"] = run(project, threads, "register", "retrieval")
    return {name: {"cpu_s": round(used.cpu_s, 2), "wall_s": round(used.wall_s, 2)} for name, used in found.items()}


def main() -> None:
    """Measure with each number of threads and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("project", type=Path)
    parser.add_argument("--threads", type=int, nargs="+", default=[1])
    parser.add_argument("--json", type=Path, help="write the figures there, too")
    options = parser.parse_args()
    found = {threads: measure(options.project, threads) for threads in options.threads}
    table = Table("threads", "stage", "CPU s", "wall s")
    for threads, stages in found.items():
        for name, used in stages.items():
            table.add_row(str(threads), name, f"{used['cpu_s']:.1f}", f"{used['wall_s']:.1f}")
    Console().print(table)
    print(f"largest process: {resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20:.2f} GiB")
    if options.json is not None:
        options.json.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
