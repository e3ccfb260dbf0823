import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from prefect_server import PROGRAMS, wait_until

pytestmark = [pytest.mark.pipeline, pytest.mark.slow]


def test_a_killed_flow_leaves_no_server_and_no_stage_behind(project: Path) -> None:
    (project / "orders/prepare").write_text("wait")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_API")}
    environment |= {"PATH": f"{PROGRAMS}{os.pathsep}{os.environ['PATH']}", "PREFECT_HOME": str(project / ".prefect")}
    log = project / "flow.log"
    with log.open("wb") as output:
        command = [sys.executable, "-m", "flows.pipeline", "prepare"]
        flow = subprocess.Popen(command, cwd=project, env=environment, stdout=output, stderr=output)
    try:
        wait_until(lambda: flow.poll() is not None or (project / "pids").exists(), 120)
        assert flow.poll() is None, log.read_text()
        family = psutil.Process(flow.pid).children(recursive=True)
        (server,) = [one for one in family if "flows.prefect_app" in one.cmdline() and "--ending" not in one.cmdline()]
        ports = [one.laddr for one in server.net_connections() if one.status == psutil.CONN_LISTEN]
        assert [address.ip for address in ports] == ["127.0.0.1"]
    finally:
        flow.kill()
        flow.wait()
    wait_until(lambda: not psutil.wait_procs(family, timeout=0.1)[1], 30)
