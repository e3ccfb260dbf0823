"""Pytest plugin of the whole suite: fast and slow tests, groups for parallel workers, equal random state.

A slow test starts a process (a server, DVC, the killable pool, torchrun) or trains for seconds. It has the mark `slow`,
or inherits it from its folder or a fixture. A test without the mark that starts a process fails, so
`make test` (`-m "not slow"`) starts none.

Options: `--mutations 300` damages more media files, `--all-kill-points` kills a program at every place where it writes.
By default tests of random damage and kills take a sample, always the same.
"""

import multiprocessing.process
import os
import random
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest
from xdist.scheduler import LoadScopeScheduling

SLOW_FOLDERS = ("tests/pipeline/", "tests/gpu/")
SLOW_FIXTURES = {
    "cluster",
    "empty_database",
    "finished_project",
    "installation",
    "mortal_server",
    "prefect",
    "sample_cache",
    "server",
    "template",
    "tiny_project",
    "undisturbed",
    "undisturbed_pair",
}
# Fixtures of a session that start a server, and the files whose tests share it. The tests of a group run on one worker,
# so that its servers start once; so do the tests of each other file, for its module fixtures.
SERVERS = {"prefect": "prefect", "any_root": "mlflow", "mortal_server": "mlflow", "installation": "installation"}
SERVER_FILES = {
    **dict.fromkeys(
        (
            "tests/flows/test_access.py",
            "tests/flows/test_automations.py",
            "tests/flows/test_pages.py",
            "tests/flows/test_parameters.py",
            "tests/flows/test_pipeline.py",
            "tests/flows/test_predict_flow.py",
            "tests/flows/test_prefect_api.py",
            "tests/flows/test_project_lock.py",
            "tests/flows/test_promotion_flows.py",
            "tests/flows/test_recovery.py",
            "tests/flows/test_schedules.py",
            "tests/flows/test_study_flow.py",
            "tests/flows/test_ui.py",
            "tests/flows/test_work_pools.py",
        ),
        "prefect",
    ),
    **dict.fromkeys(
        (
            "tests/release/test_compared_models.py",
            "tests/release/test_concurrency.py",
            "tests/release/test_delivery.py",
            "tests/release/test_orphans.py",
            "tests/release/test_promotion.py",
            "tests/release/test_registry.py",
            "tests/release/test_secrets.py",
            "tests/release/test_tracking.py",
        ),
        "mlflow",
    ),
    **dict.fromkeys(
        (
            "tests/deploy/test_shared_dvc.py",
            "tests/deploy/test_shared_mlflow.py",
            "tests/deploy/test_shared_prefect.py",
        ),
        "installation",
    ),
}
# What takes longest starts first, so that no worker is left with it at the end.
LONGEST = (
    "tests/flows/test_operate.py",
    "prefect",
    "mlflow",
    "installation",
    "tests/training/test_ranks.py",
    "tests/pipeline/test_chain.py",
    "tests/training/test_fault_tolerance.py",
    "tests/distributed/test_launch.py",
    "tests/training/test_kills.py",
    "tests/benchmarks/test_gpu_parts.py",
    "tests/pipeline/test_recipe_runs.py",
    "tests/pipeline/test_moved.py",
    "tests/pipeline/test_notebook.py",
    "tests/pipeline/test_status.py",
    "tests/training/test_two_agents.py",
    "tests/frame_cache/test_build.py",
    "tests/training/test_trainer.py",
)
# Their tests share nothing but folders, so each runs on any worker.
DIVIDED_FILES = ("tests/pipeline/test_chain.py", "tests/pipeline/test_moved.py", "tests/pipeline/test_recipe_runs.py")

PROCESS_EVENTS = {"subprocess.Popen", "os.fork", "os.forkpty", "os.posix_spawn", "os.system"}


class ProcessRecorder:
    """The processes that this process started since `started` was cleared."""

    def __init__(self) -> None:
        self.started: list[str] = []
        sys.addaudithook(self._record)
        # The spawn method of multiprocessing raises no audit event.
        start = multiprocessing.process.BaseProcess.start

        def recorded_start(process: Any) -> None:
            self.started.append(repr(process))
            start(process)

        multiprocessing.process.BaseProcess.start = recorded_start  # type: ignore[method-assign]

    def _record(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event in PROCESS_EVENTS:
            self.started.append(f"{event} {arguments[1]}" if event == "subprocess.Popen" else event)


_processes = ProcessRecorder()


def is_slow(item: pytest.Item) -> bool:
    """Return whether a test is slow by its mark, folder or fixtures."""
    return (
        item.get_closest_marker("slow") is not None
        or item.nodeid.startswith(SLOW_FOLDERS)
        or not SLOW_FIXTURES.isdisjoint(getattr(item, "fixturenames", ()))
    )


def group_of(nodeid: str) -> str:
    """Return the name of the tests that run one after the other on one worker."""
    path = nodeid.split("::")[0]
    return nodeid if path in DIVIDED_FILES else SERVER_FILES.get(path, path)


class GroupScheduling(LoadScopeScheduling):
    """Scheduler that gives each worker whole groups, in the order of the collection.

    pytest-xdist's `--dist loadgroup` has no effect with pytest 9.2: it marks groups in `Item._nodeid`, which pytest no
    longer reads (https://github.com/pytest-dev/pytest-xdist/issues/1386).
    """

    def _split_scope(self, nodeid: str) -> str:
        return group_of(nodeid)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> GroupScheduling:
    """Return the scheduler for all runs with several workers."""
    config.option.loadscopereorder = False  # the collection starts with the groups that take longest
    return GroupScheduling(config, log)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options of the long variants."""
    parser.addoption("--mutations", type=int, default=60, help="damaged media files of the fuzz test, 300 at most")
    parser.addoption("--all-kill-points", action="store_true", help="kill at every write, not at a sample")


def sampled(config: pytest.Config, points: Sequence[int], count: int) -> list[int]:
    """Return the first and the last point and random others, `count` in all; every point with `--all-kill-points`."""
    if config.getoption("--all-kill-points") or len(points) <= count:
        return list(points)
    inner = random.Random(0).sample(points[1:-1], count - 2)
    return [points[0], *sorted(inner), points[-1]]


def pytest_configure(config: pytest.Config) -> None:
    """Keep pytest-randomly from giving each run other random numbers; it shuffles the order alone."""
    if hasattr(config.option, "randomly_reset_seed"):
        config.option.randomly_reset_seed = False


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """Return the workers of `-n auto`: one more than the cores, for tests of servers mostly wait; three at most."""
    return min(3, len(os.sched_getaffinity(0)) + 1)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark slow tests before `-m` selects, and start with the groups that take longest."""
    slow_tests: dict[str, int] = defaultdict(int)
    for item in items:
        group = group_of(item.nodeid)
        for fixture in SERVERS.keys() & set(getattr(item, "fixturenames", ())):
            if group != SERVERS[fixture]:
                raise pytest.UsageError(f"{item.nodeid} uses {fixture!r}: add its file to SERVER_FILES of {__file__}")
        if is_slow(item):
            item.add_marker("slow")
            slow_tests[group] += 1

    def place(item: pytest.Item) -> tuple[int, int]:
        group = group_of(item.nodeid)
        name = group.split("::")[0]
        return LONGEST.index(name) if name in LONGEST else len(LONGEST), -slow_tests[group]

    items.sort(key=place)  # a stable sort of what pytest-randomly has shuffled


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item: pytest.Item) -> Iterator[None]:
    """Start the record of processes before the fixtures are made."""
    _processes.started.clear()
    _seed()
    return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    """Fail a test that starts a process without the mark `slow`."""
    _seed()
    result = yield
    fast_run = "not slow" in item.config.option.markexpr
    if fast_run and _processes.started and item.get_closest_marker("slow") is None:
        pytest.fail(f"a fast test starts processes, mark it `slow`: {_processes.started}", pytrace=False)
    return result


def _seed() -> None:
    """Give every test the same random numbers, in whichever order the tests run."""
    random.seed(0)
    np.random.seed(0)
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(0)
