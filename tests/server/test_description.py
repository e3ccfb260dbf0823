"""Requests that schemathesis makes from the server's own description find nothing."""

import subprocess
import sys
from pathlib import Path

import pytest
from clipbert_server import running_server

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

# A form can be right by its description and still be about a file that does not exist, or a video that cannot be read.
CONFIGURATION = """
[checks.positive_data_acceptance]
expected-statuses = ["2xx", "401", "403", "404", "422", "429", "503"]
"""


def test_schemathesis_finds_nothing(tmp_path: Path, served_project: Path) -> None:
    (tmp_path / "schemathesis.toml").write_text(CONFIGURATION)
    with running_server(served_project, key="0123456789abcdef-secret") as server:
        command = [sys.executable, "-m", "schemathesis.cli", "run", f"{server.address}/openapi.json"]
        command = [str(Path(sys.executable).with_name("schemathesis")), "run", f"{server.address}/openapi.json"]
        command += ["--header", f"Authorization: Bearer {server.key}", "--max-examples", "20", "--seed", "1"]
        command += ["--generation-database", "none", "--exclude-path", "/v1/session", "--no-color"]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=540, check=False)
        assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
        assert [each for each in server.records() if each["level"] == "error"] == []
