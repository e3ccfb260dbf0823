"""What docs/how-to/distributed.md gives to torchrun, Slurm and Kubernetes: torchrun takes it, and it fits together."""

import inspect
import re
import shlex
import subprocess
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest
import yaml
from torch.distributed.elastic.rendezvous import dynamic_rendezvous
from torch.distributed.run import get_args_parser

PAGE = (Path(__file__).parents[1] / "docs" / "how-to" / "distributed.md").read_text()
KILL_AFTER_S = 30


def block(language: str) -> str:
    (found,) = re.findall(rf"^```{language}\n(.*?)^```", PAGE, flags=re.M | re.S)
    return str(found)


def torchrun(words: list[str]) -> Namespace:
    """What torchrun understands of its command line."""
    return get_args_parser().parse_args(words[words.index("torchrun") + 1 :])


def commands(text: str) -> list[list[str]]:
    """The words of each command with torchrun in it; lines that end in a backslash are one."""
    lines = text.replace("\\\n", " ").splitlines()
    return [shlex.split(line.removesuffix("&")) for line in lines if "torchrun --nnodes" in line]


def job() -> tuple[Any, Any]:
    """The Service and the Job of the manifest."""
    service, job = yaml.safe_load_all(block("yaml"))
    assert (service["kind"], job["kind"]) == ("Service", "Job")
    return service, job


def every_torchrun() -> list[Namespace]:
    by_hand = commands(re.sub(r"^```.*?^```", "", PAGE, flags=re.M | re.S))
    container = job()[1]["spec"]["template"]["spec"]["containers"][0]
    return [torchrun(words) for words in [*by_hand, *commands(block("bash")), container["command"]]]


def test_every_torchrun_starts_the_training_and_restarts_it() -> None:
    runs = every_torchrun()
    assert len(runs) == 3
    for run in runs:
        assert (run.module, run.training_script, run.training_script_args) == (True, "clipbert", ["train", "retrieval"])
        assert run.rdzv_backend == "c10d"
        assert run.rdzv_id != "none"
        assert run.rdzv_endpoint.endswith(":29400")
        assert run.max_restarts >= 3


@pytest.mark.slow
def test_the_slurm_script_is_a_shell_script_that_hears_the_signal_slurm_sends() -> None:
    script = block("bash")
    checked = subprocess.run(["bash", "-n"], input=script, capture_output=True, text=True, check=False)
    assert (checked.returncode, checked.stderr) == (0, "")
    options = dict(re.findall(r"^#SBATCH --([a-z-]+)=(\S+)$", script, flags=re.M))
    target, number, seconds = re.fullmatch(r"(B):(\w+)@(\d+)", options["signal"]).groups()  # type: ignore[union-attr]
    assert re.search(rf"^trap '.*' {number}$", script, flags=re.M)
    (run,) = [torchrun(words) for words in commands(script)]
    assert target == "B"
    assert KILL_AFTER_S < run.shutdown_timeout < int(seconds)
    assert options["ntasks-per-node"] == "1"
    assert f"\nprocesses={options['gpus-per-node']}\n" in script


def test_the_manifest_is_of_one_piece() -> None:
    service, training = job()
    name, spec = training["metadata"]["name"], training["spec"]
    pod = spec["template"]["spec"]
    (container,) = pod["containers"]
    run = torchrun(container["command"])
    assert spec["completionMode"] == "Indexed"
    assert int(run.nnodes) == spec["completions"] == spec["parallelism"]
    assert run.rdzv_endpoint == f"{name}-0.{pod['subdomain']}:29400"
    assert pod["subdomain"] == service["metadata"]["name"]
    assert service["spec"]["clusterIP"] == "None"
    assert service["spec"]["selector"] == {"job-name": name}
    assert pod["terminationGracePeriodSeconds"] > run.shutdown_timeout > KILL_AFTER_S
    assert run.nproc_per_node == container["resources"]["limits"]["nvidia.com/gpu"]
    assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}
    assert all(isinstance(each.get("value", ""), str) for each in container["env"])
    assert run.local_addr == "$(POD_IP)"


def test_torch_knows_the_environment_variables() -> None:
    assert "TORCH_ELASTIC_SHUTDOWN_TIMEOUT" in PAGE
    assert "TORCH_ELASTIC_SHUTDOWN_TIMEOUT" in get_args_parser().format_help()
    assert PAGE.count("TORCH_DISABLE_SHARE_RDZV_TCP_STORE") == 4
    assert "TORCH_DISABLE_SHARE_RDZV_TCP_STORE" in inspect.getsource(dynamic_rendezvous)
