"""`clipbert serve` as a process of a test."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

START_S = 90.0
STOP_S = 60.0


@dataclass
class RunningServer:
    """A server and what it wrote."""

    process: subprocess.Popen[bytes]
    address: str
    log: Path
    key: str = ""

    def client(self, **options: Any) -> httpx.Client:
        """Return a client of the server."""
        headers = {"Authorization": f"Bearer {self.key}"} if self.key else {}
        return httpx.Client(base_url=self.address, headers=headers, timeout=60.0, trust_env=False, **options)

    def wait_until_ready(self) -> None:
        """Wait until the models are loaded."""
        deadline = time.monotonic() + START_S
        with self.client() as client:
            while client.get("/ready").status_code != 200:
                assert self.process.poll() is None, self.log.read_text()
                assert time.monotonic() < deadline, self.log.read_text()
                time.sleep(0.05)

    def records(self) -> list[dict[str, Any]]:
        """Return the lines of the log that are JSON objects."""
        return [json.loads(line) for line in self.log.read_text().splitlines() if line.startswith("{")]

    def memory_mb(self) -> float:
        """Return the resident memory of the server's process."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.findall(r"VmRSS:\s+(\d+) kB", status)[0]) / 1024

    def stop(self) -> int:
        """Send SIGTERM, and return the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(STOP_S)


@contextlib.contextmanager
def running_server(
    root: Path, *options: str, key: str = "", environment: dict[str, str] | None = None, ready: bool = True
) -> Iterator[RunningServer]:
    """Start `clipbert serve` in a project on a free port, and stop it after the block."""
    log = root / "serve.log"
    variables = {name: value for name, value in os.environ.items() if name != "CLIPBERT_API_KEY"}
    variables |= (
        {"PYTHONUNBUFFERED": "1", "COLUMNS": "400"} | (environment or {}) | ({"CLIPBERT_API_KEY": key} if key else {})
    )
    command = [sys.executable, "-m", "clipbert", "serve", "--port", "0", *options]
    with log.open("wb") as file:
        process = subprocess.Popen(command, cwd=root, env=variables, stdout=file, stderr=subprocess.STDOUT)
    try:
        deadline = time.monotonic() + START_S
        while (found := re.search(r"at (http://\S+) \(", log.read_text())) is None:
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.05)
        server = RunningServer(process, found[1], log, key)
        if ready:
            server.wait_until_ready()
        yield server
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
