"""Access to the servers of `make ui` for tests, and a small DVC project for flow runs."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from flows.api_password import api_password
from flows.prefect_api import PrefectApi
from flows.servers import USER, free_port

REPOSITORY = Path(__file__).resolve().parents[2]
PROGRAMS = Path(sys.executable).parent

STAGES = """
stages:
  prepare:
    cmd: python work.py prepare data/numbers.txt artifacts/prepared.txt
    deps: [work.py, data]
    outs: [artifacts/prepared.txt]
  train:
    foreach: [left, right]
    do:
      cmd: python work.py train@${item} artifacts/prepared.txt artifacts/models/${item}.txt
      deps: [artifacts/prepared.txt]
      params: ["train.${item}"]
      outs: ["artifacts/models/${item}.txt"]
  evaluate:
    matrix: {task: [left]}
    cmd: python work.py evaluate@${item.task} artifacts/models/${item.task}.txt artifacts/metrics/${item.task}.json
    deps: ["artifacts/models/${item.task}.txt"]
    metrics: ["artifacts/metrics/${item.task}.json": {cache: false}]
"""

# A stage: says that it starts, does what params.yaml has for it, writes its output.
WORK = """
import json, os, signal, subprocess, sys, time
from pathlib import Path

stage, source, target = sys.argv[1:]
print(f"{stage} reads {source}")
kind, _, task = stage.partition("@")
order = Path("orders", stage).read_text().split() if Path("orders", stage).exists() else []
if order[:1] == ["exit"]:
    print("the color is wrong; expected red, blue or green", file=sys.stderr)
    sys.exit(int(order[1]))
if order[:1] == ["say"]:
    print(f"reading {order[1]}")
    print(f"cannot read {order[1]}", file=sys.stderr)
    sys.exit(2)
if order[:1] == ["exit-once"]:
    Path("orders", stage).unlink()
    sys.exit(1)
if order[:1] == ["wait"]:
    child = subprocess.Popen(["sleep", "1000"])
    Path("pids").write_text(f"{os.getpid()} {child.pid}")
    print("waiting")
    time.sleep(1000)
target = Path(target)
target.parent.mkdir(parents=True, exist_ok=True)
if kind == "evaluate":
    target.write_text(json.dumps({f"{task}/r1": 42.0, f"{task}/medr": 3}))
    runs = Path("artifacts/runs")
    runs.mkdir(exist_ok=True)
    (runs / f"{task}.json").write_text(
        json.dumps({"task": task, "run_id": f"run-{task}", "run_name": f"{task} 1", "tracking_uri": "sqlite:///m.db"})
    )
else:
    target.write_text(Path(source).read_text())
"""


@dataclass
class Prefect:
    """Running servers of `make ui`: their addresses, and Prefect's REST API."""

    api: PrefectApi
    mlflow: str
    environment: dict[str, str]
    log: Path
    project: Path
    password: str
    process: "subprocess.Popen[bytes]"

    @property
    def url(self) -> str:
        return self.api.url

    @property
    def printed(self) -> str:
        return self.log.read_text()

    def link(self, name: str) -> str:
        """Return the sign-in link that was printed for MLflow or Prefect."""
        return next(line.split()[1] for line in self.printed.splitlines() if line.startswith(name))

    def programs(self, word: str) -> list[psutil.Process]:
        """Return the processes of `make ui` with this word in their command, without supervisors."""
        found = []
        for process in psutil.Process(self.process.pid).children(recursive=True):
            with contextlib.suppress(psutil.Error):
                command = process.cmdline()
                if word in command and "--ending" not in command:
                    found.append(process)
        return found

    def call(self, method: str, path: str, body: Any = None) -> Any:
        return self.api.call(method, path, body)

    def start(self, deployment: str, project: Path, **parameters: Any) -> str:
        """Start a run of a deployment in the folder `project` and return its id."""
        found = self.call("GET", f"/deployments/name/{deployment}")
        body = {"parameters": parameters, "job_variables": {"env": {"CLIPBERT_ROOT": str(project)}}}
        return str(self.call("POST", f"/deployments/{found['id']}/create_flow_run", body)["id"])

    def state(self, run: str) -> dict[str, Any]:
        return dict(self.call("GET", f"/flow_runs/{run}")["state"])

    def wait(self, run: str, *kinds: str, seconds: float = 180) -> dict[str, Any]:
        """Wait for a state of one of `kinds`, by default a final one, and return it."""
        wanted = kinds or ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")
        return wait_until(lambda: state if (state := self.state(run))["type"] in wanted else None, seconds)

    def tasks(self, run: str) -> dict[str, dict[str, Any]]:
        """Return the run's task runs by name."""
        found = self.call("POST", "/task_runs/filter", {"flow_runs": {"id": {"any_": [run]}}})
        return {task["name"]: task for task in found}

    def logs(self, run: str) -> list[str]:
        """Return the log of the run's tasks."""
        body = {"logs": {"flow_run_id": {"any_": [run]}}, "limit": 200, "sort": "TIMESTAMP_ASC"}
        return [entry["message"] for entry in self.call("POST", "/logs/filter", body) if entry["task_run_id"]]

    def everything(self, run: str) -> str:
        """Return all data of the server about a run: the run, its tasks, states, logs and artifacts."""
        wanted = {"flow_runs": {"id": {"any_": [run]}}}
        logs = {"logs": {"flow_run_id": {"any_": [run]}}, "limit": 200}
        found = [self.call("GET", f"/flow_runs/{run}"), self.call("POST", "/logs/filter", logs)]
        found += [self.call("POST", f"/{kind}/filter", wanted) for kind in ("task_runs", "artifacts")]
        for path in (f"/flow_run_states/?flow_run_id={run}", f"/flow_runs/{run}/graph-v2"):
            found.append(self.call("GET", path))
        for task in self.tasks(run).values():
            found.append(self.call("GET", f"/task_run_states/?task_run_id={task['id']}"))
        return json.dumps(found)

    def artifacts(self, run: str) -> dict[str, Any]:
        """Return the data of the run's artifacts by key."""
        found = self.call("POST", "/artifacts/filter", {"artifacts": {"flow_run_id": {"any_": [run]}}})
        return {artifact["key"]: artifact["data"] for artifact in found}


@contextlib.contextmanager
def running_servers(project: Path, folder: Path, **settings: str) -> Iterator[Prefect]:
    """Run `make ui` in a project, with everything of the servers in `folder`; it ends with the context.

    Args:
        settings: more environment variables.
    """
    mlflow, prefect = free_port(), free_port()
    environment = {name: value for name, value in os.environ.items() if name != "MLFLOW_TRACKING_URI"} | {
        "PATH": f"{PROGRAMS}{os.pathsep}{os.environ['PATH']}",
        "PREFECT_HOME": str(folder / "home"),
        "PREFECT_LOGGING_TO_API_BATCH_INTERVAL": "0.5",
        "CLIPBERT_MLFLOW_PORT": str(mlflow),
        "CLIPBERT_PREFECT_PORT": str(prefect),
        **settings,
    }
    # Without the last one each process would compile the code again.
    for name in ("PREFECT_API_URL", "PREFECT_API_AUTH_STRING", "PYTHONDONTWRITEBYTECODE"):
        environment.pop(name, None)
    log = folder / "ui.log"
    with log.open("wb") as output:
        command = [sys.executable, "-m", "flows.ui", "--logs", str(folder / "logs")]
        ui = subprocess.Popen(command, cwd=project, env=environment, stdout=output, stderr=output)
    try:
        wait_until(lambda: ui.poll() is not None or "Ctrl-C stops everything" in log.read_text())
        assert ui.poll() is None, log.read_text()
        url, password = f"http://127.0.0.1:{prefect}/api", api_password(project)
        auth_string = f"{USER}:{password}"
        client = environment | {"PREFECT_API_URL": url, "PREFECT_API_AUTH_STRING": auth_string}
        api, address = PrefectApi(url, auth_string), f"http://127.0.0.1:{mlflow}"
        yield Prefect(api, address, client, log, project, password, ui)
    finally:
        ui.send_signal(signal.SIGINT)
        ui.wait(60)


def wait_until(check: Callable[[], Any], seconds: float = 180) -> Any:
    """Call `check` until it returns a true value, and return that value."""
    deadline = time.monotonic() + seconds
    while not (found := check()):
        assert time.monotonic() < deadline, f"nothing after {seconds:g} s"
        time.sleep(0.2)
    return found


def make_project(folder: Path) -> Path:
    """Create a git and DVC project of four fast stages with this repository's flows and deployments."""
    folder.mkdir(parents=True)
    (folder / "dvc.yaml").write_text(STAGES)
    (folder / "work.py").write_text(WORK)
    (folder / "params.yaml").write_text("train: {left: 1, right: 1}\n")
    (folder / "data").mkdir()
    (folder / "data" / "numbers.txt").write_text("1 2 3\n")
    (folder / "orders").mkdir()
    shutil.copytree(REPOSITORY / "flows", folder / "flows", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(REPOSITORY / "prefect.yaml", folder)
    subprocess.run(["git", "init", "--quiet"], cwd=folder, check=True)
    for arguments in (["init", "--quiet"], ["config", "core.analytics", "false"], ["add", "--quiet", "data"]):
        subprocess.run(
            [PROGRAMS / "dvc", *arguments], cwd=folder, check=True, env=os.environ | {"DVC_NO_ANALYTICS": "1"}
        )
    return folder
