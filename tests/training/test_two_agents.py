"""Two torchrun agents, as on two nodes, train one model: what one agent makes, also where a process is killed."""

import json
import signal
from pathlib import Path
from typing import Any

import psutil
import pytest
import training_process
from forked_python import ForkedProgram
from trainings import (
    ENVIRONMENT,
    STEPS,
    finished,
    kill_group,
    same,
    seen_steps,
    settings,
    steps_of,
    weights_of,
)

from flows.servers import free_port

pytestmark = [pytest.mark.pipeline, pytest.mark.slow]


def started_agents(project: Path, out: Path) -> list[Any]:
    """Start two agents with one process each, with the options that docs/how-to/distributed.md gives for two nodes."""
    out.mkdir(parents=True, exist_ok=True)
    rendezvous = ["--rdzv-id=1", "--rdzv-backend=c10d", f"--rdzv-endpoint=127.0.0.1:{free_port()}"]
    options = ["--nnodes=2", "--nproc-per-node=1", *rendezvous, "--max-restarts=3", "--local-addr=127.0.0.1"]
    training = [training_process.__file__, str(project), str(out), json.dumps(settings())]
    environment = ENVIRONMENT | {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
    command = ["-m", "torch.distributed.run", *options, *training]
    return [ForkedProgram(command, environment, merge=True) for _ in range(2)]


def worker_of(agent: Any) -> psutil.Process:
    (worker,) = [child for child in psutil.Process(agent.pid).children() if "RANK" in child.environ()]
    return worker


def test_a_process_killed_on_one_node_is_started_again_with_those_of_the_other(
    tiny_project: Path, tmp_path: Path, undisturbed_pair: Path
) -> None:
    agents: list[Any] = []
    try:
        agents = started_agents(tiny_project, tmp_path)
        seen_steps(tmp_path, 4)
        ranks = {worker_of(agent).environ()["RANK"] for agent in agents}
        worker_of(agents[1]).send_signal(signal.SIGKILL)
        said = [finished(agent) for agent in agents]
    finally:
        for agent in agents:
            if agent.poll() is None:
                kill_group(agent)
    assert ranks == {"0", "1"}
    assert sum("Resuming retrieval at step" in words for words in said) == 1
    for rank in (0, 1):
        assert sorted(steps_of(tmp_path, rank)) == list(range(STEPS))
        assert steps_of(tmp_path, rank) == steps_of(undisturbed_pair, rank)
    assert same(weights_of(tmp_path), weights_of(undisturbed_pair))
