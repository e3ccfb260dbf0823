import fcntl
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from prefect_server import REPOSITORY, Prefect, wait_until

from flows.project_lock import WAITING, project_lock

pytestmark = pytest.mark.slow

HOLDER = """
import sys, time
from pathlib import Path
from flows.project_lock import project_lock
with project_lock(Path(sys.argv[1]), print):
    print("mine", flush=True)
    time.sleep(1000)
"""


def test_a_second_flow_says_that_it_waits_until_the_first_has_died(tmp_path: Path) -> None:
    first = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)], cwd=REPOSITORY, stdout=subprocess.PIPE, text=True
    )
    assert first.stdout is not None
    assert first.stdout.readline() == "mine\n"
    said: list[str] = []
    done = threading.Event()

    def second() -> None:
        with project_lock(tmp_path, said.append, lambda: said.append("running")):
            done.set()

    threading.Thread(target=second).start()
    wait_until(lambda: said)
    assert said == [f"Waiting: another run works in {tmp_path}"]
    time.sleep(0.2)
    assert not done.is_set()
    first.kill()
    first.wait()
    first.stdout.close()
    assert done.wait(10)
    assert said[1:] == ["running"]


@pytest.mark.pipeline
def test_a_waiting_run_shows_that_it_waits_and_then_that_it_runs(prefect: Prefect, project: Path) -> None:
    (project / "artifacts").mkdir()
    with (project / "artifacts/.flow.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        run = prefect.start("clipbert-pipeline/daily", project, stages=["prepare"])
        wait_until(lambda: prefect.state(run)["name"] == WAITING)
        assert prefect.state(run)["type"] == "RUNNING"
        assert prefect.state(run)["message"] == f"Waiting: another run works in {project}"
    assert prefect.wait(run)["type"] == "COMPLETED"
    states = [state["name"] for state in prefect.call("GET", f"/flow_run_states/?flow_run_id={run}")]
    assert states[-4:] == ["Running", WAITING, "Running", "Completed"]
