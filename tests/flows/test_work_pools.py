from pathlib import Path

import pytest
import yaml
from prefect_server import REPOSITORY, Prefect

from flows.prefect_api import PrefectApiError
from flows.work_pools import POOLS, count_gpus, create_pools, limit_gpu_tasks

pytestmark = pytest.mark.pipeline


def test_every_deployment_has_a_described_pool(prefect: Prefect) -> None:
    deployments = yaml.safe_load((REPOSITORY / "prefect.yaml").read_text())["deployments"]
    assert {entry["name"]: entry["work_pool"] for entry in deployments if entry["work_pool"]["name"] == "cpu"} == {
        name: {"name": "cpu"} for name in ("inbox", "promote", "rollback")
    }
    assert {entry["work_pool"]["name"] for entry in deployments} == POOLS.keys()
    for name, description in POOLS.items():
        pool = prefect.call("GET", f"/work_pools/{name}")
        assert (pool["type"], pool["description"], pool["status"]) == ("process", description, "READY")
        assert len(prefect.programs(name)) == 1


def test_existing_pools_stay_as_they_are(prefect: Prefect) -> None:
    prefect.call("PATCH", "/work_pools/cpu", {"concurrency_limit": 7})
    create_pools(prefect.api)
    assert prefect.call("GET", "/work_pools/cpu")["concurrency_limit"] == 7
    prefect.call("PATCH", "/work_pools/cpu", {"concurrency_limit": None})


def test_gpu_tasks_are_limited_to_the_gpus_unless_a_limit_was_set(prefect: Prefect) -> None:
    tag = "/concurrency_limits/tag/gpu"
    if prefect.api.find(tag) is not None:
        prefect.call("DELETE", tag)
    limit_gpu_tasks(prefect.api, 0)
    assert prefect.api.find(tag) is None
    try:
        limit_gpu_tasks(prefect.api, 2)
        limit_gpu_tasks(prefect.api, 8)
        assert prefect.call("GET", tag)["concurrency_limit"] == 2
    finally:
        prefect.call("DELETE", tag)


def test_gpus_are_counted_by_their_driver(tmp_path: Path) -> None:
    assert count_gpus(tmp_path / "absent") == 0
    for address in ("0000:01:00.0", "0000:41:00.0"):
        (tmp_path / address).mkdir()
    assert count_gpus(tmp_path) == 2


def test_parameters_are_described_and_invalid_ones_are_refused(prefect: Prefect) -> None:
    deployments = prefect.call("POST", "/deployments/filter", {})
    assert len(deployments) == 8
    for found in deployments:
        assert found["enforce_parameter_schema"]
        for name, parameter in found["parameter_openapi_schema"]["properties"].items():
            assert parameter.get("description"), f"{found['name']}: {name}"
    daily = prefect.call("GET", "/deployments/name/clipbert-pipeline/daily")
    for wrong in ({"parallel": 0}, {"retries": -1}, {"time_limit_s": "long"}):
        with pytest.raises(PrefectApiError) as caught:
            prefect.call("POST", f"/deployments/{daily['id']}/create_flow_run", {"parameters": wrong})
        assert caught.value.status in (409, 422)
        assert next(iter(wrong)) in str(caught.value)


def test_no_deployment_names_a_machine(prefect: Prefect) -> None:
    for found in prefect.call("POST", "/deployments/filter", {}):
        assert found["job_variables"] == {}
        assert found["path"] is None or not Path(found["path"]).is_absolute()
        assert str(prefect.project) not in str(found)
