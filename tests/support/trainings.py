"""Start training_process.py in one or several processes, and read its output."""

import contextlib
import json
import os
import time
from pathlib import Path
from typing import Any

import agent_process
import psutil
import torch
import training_process
from forked_python import ForkedProgram

from flows.servers import free_port

STEPS = 12  # 24 examples, 8 in a step, 4 epochs
ENVIRONMENT = dict(os.environ) | {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo", "TORCH_CPP_LOG_LEVEL": "ERROR"}


def settings(task: str = "retrieval", **train: Any) -> dict[str, Any]:
    values = {"batch_size": 8, "checkpoint_every_steps": 1, "lr": 0.001, "precision": "fp32", "min_steps": 0} | train
    return {"task": task, "params": {"train": values, "tasks": {task: {"epochs": 4}}}}


class Ranks:
    """The programs of a training in several processes, without torchrun, which would import torch for each of them."""

    def __init__(self, programs: list[ForkedProgram]) -> None:
        self.programs, self.pids = programs, [program.pid for program in programs]

    @property
    def returncode(self) -> int | None:
        """The first exit code that is not 0; None while one of them runs."""
        codes = [program.returncode for program in self.programs]
        return None if None in codes else next((code for code in codes if code != 0), 0)

    def communicate(self, timeout: float) -> tuple[str, str]:
        """Wait for the end of all, and return what they wrote, the first rank first."""
        return "".join(program.communicate(timeout)[0] for program in self.programs), ""

    def send_signal(self, number: int) -> None:
        for program in self.programs:
            program.send_signal(number)


def started(project: Path, out: Path, asked: dict[str, Any], processes: int = 1) -> Any:
    """Start training_process.py, in several processes without an agent that would restart them."""
    out.mkdir(parents=True, exist_ok=True)
    return started_in_ranks([training_process.__file__, str(project), str(out), json.dumps(asked)], processes)


def started_in_ranks(command: list[str], processes: int) -> Any:
    """Start a program, in several processes with the environment of torchrun's."""
    if processes == 1:
        return ForkedProgram(command, ENVIRONMENT, merge=True)
    environment = ENVIRONMENT | {"WORLD_SIZE": str(processes), "MASTER_ADDR": "127.0.0.1"}
    environment["MASTER_PORT"] = str(free_port())
    ranks = [{"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(processes)]
    return Ranks([ForkedProgram(command, environment | rank, merge=True) for rank in ranks])


def started_under_agent(project: Path, out: Path, asked: dict[str, Any], processes: int, restarts: int) -> Any:
    """Start torchrun's agent with training_process.py; its processes are forks of a server that has imported torch."""
    out.mkdir(parents=True, exist_ok=True)
    command = [agent_process.__file__, str(processes), str(restarts), str(project), str(out), json.dumps(asked)]
    environment = ENVIRONMENT | {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}  # docs/how-to/distributed.md
    return ForkedProgram(command, environment, merge=True)


def finished(process: Any) -> str:
    """Return the output of a process that must succeed."""
    said, _ = process.communicate(timeout=200)
    assert process.returncode == 0, said
    return str(said)


def steps_of(out: Path, rank: int = 0) -> dict[int, dict[str, Any]]:
    """Return the record of each step; records of a repeated step must be equal. A kill may truncate the last line."""
    rows: dict[int, dict[str, Any]] = {}
    for line in (out / f"{rank}.jsonl").read_text().splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            continue
        assert rows.setdefault(row["step"], row) == row
    return rows


def weights_of(out: Path) -> dict[str, torch.Tensor]:
    return dict(torch.load(out / "weights.pt", weights_only=True)["weights"])


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def seen_steps(out: Path, count: int, rank: int = 0) -> None:
    """Wait until `count` steps are recorded."""
    file, until = out / f"{rank}.jsonl", time.monotonic() + 120
    while not file.exists() or file.read_text().count("\n") < count:
        assert time.monotonic() < until
        time.sleep(0.005)


def kill_group(process: Any) -> None:
    """Kill a process or all ranks, and their descendants, which torchrun's agent puts into separate process groups."""
    mains = [psutil.Process(pid) for pid in getattr(process, "pids", None) or [process.pid]]
    victims = mains + [child for main in mains for child in main.children(recursive=True)]
    for victim in victims:
        with contextlib.suppress(psutil.NoSuchProcess):
            victim.kill()
    process.communicate(timeout=60)
    psutil.wait_procs(victims, timeout=60)
