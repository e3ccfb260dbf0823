"""Start training_process.py, alone or under torchrun, and read its output."""

import contextlib
import json
import os
import time
from pathlib import Path
from typing import Any

import psutil
import torch
import training_process
from forked_python import ForkedProgram

STEPS = 12  # 24 examples, 8 in a step, 4 epochs


def settings(task: str = "retrieval", **train: Any) -> dict[str, Any]:
    values = {"batch_size": 8, "checkpoint_every_steps": 1, "lr": 0.001, "precision": "fp32", "min_steps": 0} | train
    return {"task": task, "params": {"train": values, "tasks": {task: {"epochs": 4}}}}


def started(project: Path, out: Path, asked: dict[str, Any], processes: int = 1, restarts: int = 0) -> Any:
    out.mkdir(parents=True, exist_ok=True)
    command = [training_process.__file__, str(project), str(out), json.dumps(asked)]
    if processes > 1:
        torchrun = ["-m", "torch.distributed.run", "--standalone", "--local-addr=127.0.0.1"]
        command = [*torchrun, f"--nproc-per-node={processes}", f"--max-restarts={restarts}", *command]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo", "TORCH_CPP_LOG_LEVEL": "ERROR"}
    environment["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] = "1"  # docs/how-to/distributed.md
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
    """Kill a process and its descendants, which torchrun's agent puts into separate process groups."""
    victims = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    for victim in victims:
        with contextlib.suppress(psutil.NoSuchProcess):
            victim.kill()
    process.communicate(timeout=60)
    psutil.wait_procs(victims, timeout=60)
