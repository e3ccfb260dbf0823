"""The manifests and the script in deploy/ for Kubernetes and Slurm, and those in the docs."""

import os
import re
import shutil
import signal
import subprocess
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from distributed.cli import dask_scheduler, dask_worker
from shared_installation import DEPLOY, SETTINGS, read_services

from flows.automations import HEARTBEAT_S
from flows.work_pools import POOLS

DOCS = DEPLOY.parent / "docs" / "how-to"
SLURM = DEPLOY / "slurm" / "worker.sbatch"
VERSIONS = ("1.31", kubernetes_validate.latest_version())


def manifests() -> list[tuple[str, Any]]:
    """Every Kubernetes object of deploy/ and of the pages, with the file that has it."""
    texts = {path.name: path.read_text() for path in (DEPLOY / "kubernetes").glob("*.yaml")}
    for page in DOCS.glob("*.md"):
        fenced = re.findall(r"^```yaml\n(.*?)^```", page.read_text(), re.M | re.S)
        indented = re.findall(r"(?m)^((?:    .*\n)+)", page.read_text())
        blocks = [*fenced, *(re.sub(r"(?m)^    ", "", block) for block in indented)]
        texts |= {f"{page.name} {place}": block for place, block in enumerate(blocks) if "apiVersion:" in block}
    return [(name, found) for name, text in texts.items() for found in yaml.safe_load_all(text)]


def containers() -> dict[str, Any]:
    """The containers of deploy/kubernetes by the name of their Deployment."""
    found = [found for name, found in manifests() if name in ("workers.yaml", "dask.yaml")]
    return {
        one["metadata"]["name"]: one["spec"]["template"]["spec"]["containers"][0]
        for one in found
        if one["kind"] == "Deployment"
    }


def test_every_manifest_follows_the_schema_of_kubernetes() -> None:
    assert {name.split()[0] for name, _ in manifests()} == {"workers.yaml", "dask.yaml", "cluster.md", "distributed.md"}
    for name, found in manifests():
        for version in VERSIONS:
            assert kubernetes_validate.validate(found, version, strict=True), name


def test_an_unknown_field_would_be_found() -> None:
    _, found = manifests()[0]
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(found | {"specs": {}}, VERSIONS[0], strict=True)


def test_labels_volumes_and_images_fit_together() -> None:
    for name, found in manifests():
        if found["kind"] != "Deployment" or name not in ("workers.yaml", "dask.yaml"):
            continue
        pod = found["spec"]["template"]
        assert pod["metadata"]["labels"].items() >= found["spec"]["selector"]["matchLabels"].items()
        container = pod["spec"]["containers"][0]
        volumes = {volume["name"] for volume in pod["spec"].get("volumes", [])}
        assert {mount["name"] for mount in container.get("volumeMounts", [])} == volumes
        assert pod["spec"]["securityContext"]["runAsNonRoot"]
        # The version of the image that compose builds from the same Dockerfile.
        assert container["image"] == read_services(SETTINGS)["mlflow"]["image"].replace("servers", "worker")


def test_a_worker_of_each_pool_is_deployed_with_heartbeats() -> None:
    workers = {name: one for name, one in containers().items() if name.startswith("clipbert-worker-")}
    assert {name.rpartition("-")[2] for name in workers} == POOLS.keys()
    for name, container in workers.items():
        pool = name.rpartition("-")[2]
        assert container["command"][:6] == ["prefect", "worker", "start", "--pool", pool, "--type"]
        environment = {entry["name"]: entry.get("value") for entry in container["env"]}
        assert environment["PREFECT_FLOWS_HEARTBEAT_FREQUENCY"] == str(HEARTBEAT_S)
        assert ("nvidia.com/gpu" in container["resources"]["limits"]) == (pool == "gpu")


def test_dask_accepts_the_commands() -> None:
    for name, command in (("dask-scheduler", dask_scheduler.main), ("dask-worker", dask_worker.main)):
        program, verb, *arguments = containers()[name]["command"]
        assert (program, verb) == ("dask", name.partition("-")[2])
        parsed = command.make_context(name, list(arguments))
        if verb == "worker":
            assert parsed.params["scheduler"] == "dask-scheduler:8786"
            assert not parsed.params["nanny"]
            assert parsed.params["nthreads"] == 16
    (service,) = [found for name, found in manifests() if name == "dask.yaml" and found["kind"] == "Service"]
    assert [port["port"] for port in service["spec"]["ports"]] == [8786]


def stand_in(path: Path, text: str) -> None:
    path.write_text(f"#!/bin/bash\n{text}\n")
    path.chmod(0o755)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGTERM])
def test_slurm_script_ends_the_worker_and_requeues_after_usr1_only(tmp_path: Path, number: signal.Signals) -> None:
    programs = tmp_path / ".venv" / "bin"
    programs.mkdir(parents=True)
    (programs / "activate").write_text(f"PATH={programs}:$PATH\n")
    # A worker that ends a moment after SIGINT, as one does that waits for its run.
    waiting = "trap 'sleep 0.5; echo ended; exit 0' INT\necho started >started\nwhile true; do sleep 0.1; done"
    stand_in(programs / "prefect", f'echo "$@"\n{waiting}')
    stand_in(programs / "scontrol", 'echo "scontrol $@"')
    variables = {"SLURM_SUBMIT_DIR": str(tmp_path), "SLURM_JOB_ID": "7", "PREFECT_API_URL": "https://p/api"}
    job = subprocess.Popen(
        ["bash", SLURM], env={"PATH": os.environ["PATH"], **variables}, stdout=subprocess.PIPE, text=True
    )
    while not (tmp_path / "started").exists():
        assert job.poll() is None
    job.send_signal(number)
    output, _ = job.communicate(timeout=30)
    assert output.splitlines()[0] == "worker start --pool gpu --type process --name slurm-7"
    assert "ended" in output
    assert ("scontrol requeue 7" in output) == (number == signal.SIGUSR1)


@pytest.mark.slow
def test_slurm_script_needs_the_address_of_the_server(tmp_path: Path) -> None:
    environment = {"PATH": os.environ["PATH"], "SLURM_SUBMIT_DIR": str(tmp_path), "SLURM_JOB_ID": "7"}
    done = subprocess.run(["bash", SLURM], env=environment, capture_output=True, text=True)
    assert done.returncode != 0
    assert "PREFECT_API_URL: set it to the address of the Prefect server" in done.stderr
    if shutil.which("shellcheck"):
        checked = subprocess.run(["shellcheck", "--exclude=SC1091", SLURM, DEPLOY / "s3" / "start.sh"], text=True)
        assert checked.returncode == 0
