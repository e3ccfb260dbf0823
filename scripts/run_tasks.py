"""Run the graph of dvc.yaml, the chains of the tasks side by side. Started by scripts/run.sh, in the project's folder:

    python -m scripts.run_tasks

The stages that several tasks need run first, in one `dvc repro`. Then each task trains, evaluates and registers in a
`dvc repro` of its own, with its share of the CPU cores: a small model gains little from a second thread. A last
`dvc repro` runs what is left and says that everything is up to date. `JOBS` limits the number of tasks at a time; on a
machine with an NVIDIA GPU it is 1 by default, for one task can use the whole GPU.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from flows.graph import Graph, GraphError, read_graph, select, stage_name
from flows.supervisor import Supervisor, SupervisorStopped, environment

DVC = (sys.executable, "-m", "dvc")
LAST_STAGE = "register"  # of each task's chain
CHECKPOINT_S = 120.0  # for a training that is interrupted to write its checkpoint


def main() -> int:
    """Run everything that has changed; return the exit code of the first command that failed."""
    root = Path.cwd()
    try:
        jobs = number_of_jobs()
        if jobs > 1 and has_changed(root):
            graph = read_graph(root)
            tasks = [stage for stage in graph if stage_name(stage) == LAST_STAGE]
            jobs = min(jobs, len(tasks))
            if jobs > 1 and (code := run_tasks(root, graph, tasks, jobs)):
                return code
        return subprocess.call([*DVC, "repro"], cwd=root)
    except (GraphError, ValueError) as error:
        print(f"make run: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("make run: interrupted; the same command resumes", file=sys.stderr)
        return 128 + signal.SIGINT


def number_of_jobs() -> int:
    """Return how many tasks may run at a time.

    Raises:
        ValueError: `JOBS` is not a whole number above 0.
    """
    given = os.environ.get("JOBS", "")
    if given:
        if not given.isdecimal() or int(given) < 1:
            raise ValueError(f"JOBS is {given!r}: expected a whole number above 0, such as JOBS=1.")
        return int(given)
    smi = shutil.which("nvidia-smi")
    has_gpu = smi is not None and "GPU" in subprocess.run([smi, "-L"], capture_output=True, text=True).stdout
    # the supervisor that ends a task's processes needs Linux
    return 1 if has_gpu or sys.platform != "linux" else len(os.sched_getaffinity(0))


def has_changed(root: Path) -> bool:
    """Return whether a stage would run; false too where DVC cannot tell: `dvc repro` then names the error."""
    status = subprocess.run([*DVC, "status", "--json"], cwd=root, env=environment(), capture_output=True, text=True)
    return status.returncode == 0 and json.loads(status.stdout or "{}") != {}


def run_tasks(root: Path, graph: Graph, tasks: list[str], jobs: int) -> int:
    """Run the stages that several of `tasks` need, then the rest of each task, `jobs` tasks at a time.

    A task that fails does not stop the others; each failure is reported at the end.

    Returns:
        0, or the exit code of the first failure.
    """
    chains = [select(graph, [task]) for task in tasks]
    shared = [stage for stage in graph if sum(stage in chain for chain in chains) > 1]
    if shared and (code := subprocess.call([*DVC, "repro", *shared], cwd=root)):
        return code
    threads = max(1, len(os.sched_getaffinity(0)) // jobs)
    env = {"OMP_NUM_THREADS": str(threads), **environment()}
    names = [task.partition("@")[2] or task for task in tasks]
    print(f"Running side by side, {env['OMP_NUM_THREADS']} thread(s) each: {', '.join(names)}", flush=True)

    def run(chain: Graph, name: str) -> int:
        # Without --single-item, DVC would lock the outputs of the shared stages, which other tasks read.
        own = [stage for stage in chain if stage not in shared]
        command = [*DVC, "--wait-for-lock", "repro", "--single-item", *own]
        try:
            process = supervisor.start(command, env, ending=signal.SIGINT)
        except SupervisorStopped:
            return 128 + signal.SIGINT
        for line in process.lines():
            if line:
                print(f"[{name}] {line}", flush=True)
        return process.wait()

    signal.signal(signal.SIGTERM, _interrupt)
    signal.signal(signal.SIGHUP, _interrupt)
    with Supervisor(root, CHECKPOINT_S) as supervisor, ThreadPoolExecutor(jobs) as pool:
        try:
            codes = list(pool.map(run, chains, names))
        except KeyboardInterrupt:
            supervisor.stop()  # before the threads, which read until their commands have ended
            raise
    for name, code in zip(names, codes, strict=True):
        if code:
            print(f"make run: {name} failed with exit code {code}; its messages are above", file=sys.stderr)
    return next((code for code in codes if code), 0)


def _interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
