"""Work pools of the deployments: `cpu` for what waits and copies, `gpu` for what trains and evaluates.

Each project needs a worker for both; on one machine `make ui` starts them. In a shared installation, machines with GPUs
start workers of `gpu`, see docs/how-to/scheduling.md.
"""

from pathlib import Path

from flows.prefect_api import PrefectApi, PrefectApiError

POOLS = {
    "cpu": "Receives data, promotes and rolls back: short, no GPU needed.",
    "gpu": "Runs stages, trains and evaluates: on machines with a GPU if there are any.",
}
GPU_TAG = "gpu"  # of the tasks that occupy a GPU slot
NVIDIA = Path("/proc/driver/nvidia/gpus")


def create_pools(api: PrefectApi) -> None:
    """Create the pools that the server does not have; leave the others unchanged.

    Raises:
        PrefectApiError: the server rejected the request.
    """
    for name, description in POOLS.items():
        try:
            if api.find(f"/work_pools/{name}") is None:
                api.call("POST", "/work_pools/", {"name": name, "type": "process", "description": description})
        except PrefectApiError as error:
            if error.status != 409:  # another program created it since
                raise


def has_job_template(api: PrefectApi, pool: str) -> bool:
    """Return whether a pool has the template of its jobs, which its first worker adds."""
    found = api.find(f"/work_pools/{pool}")
    return found is not None and bool(found["base_job_template"])


def limit_gpu_tasks(api: PrefectApi, gpus: int) -> None:
    """Let as many tasks with the tag `gpu` run at a time as there are GPUs; keep a limit that the server has.

    Args:
        gpus: GPUs of all workers. 0 sets no limit: without a GPU, `parallel` decides.

    Raises:
        PrefectApiError: the server rejected the request.
    """
    if gpus and api.find(f"/concurrency_limits/tag/{GPU_TAG}") is None:
        api.call("POST", "/concurrency_limits/", {"tag": GPU_TAG, "concurrency_limit": gpus})


def count_gpus(devices: Path = NVIDIA) -> int:
    """Return the number of NVIDIA GPUs of this machine; 0 without their driver."""
    return len(list(devices.iterdir())) if devices.is_dir() else 0
