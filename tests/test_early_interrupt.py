"""Ctrl-C while the command is still starting: one line, exit code 130, no traceback."""

import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

# Prints a mark once Python itself is up: before that no program can answer a signal.
COMMAND = "import sys; print('up', flush=True); from clipbert.__main__ import main; sys.argv[0] = 'clipbert'; main()"
PIPES: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}


@pytest.mark.parametrize("delay_s", [0.02, 0.05, 0.1, 0.2, 0.4])
def test_ctrl_c_while_starting_leaves_one_line(tmp_path: Path, delay_s: float) -> None:
    (tmp_path / "params.yaml").write_text("")
    process = subprocess.Popen(
        [sys.executable, "-c", COMMAND, "doctor"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "up\n"
    time.sleep(delay_s)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert "Traceback" not in said
    assert process.returncode == 130
    assert said.startswith("clipbert: ")
    assert "interrupted" in said
    assert len(said.splitlines()) == 1


def test_an_ignored_signal_stays_ignored(tmp_path: Path) -> None:
    ignore = "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN); " + COMMAND
    process = subprocess.Popen(
        [sys.executable, "-c", ignore, "--version"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "up\n"
    process.send_signal(signal.SIGINT)
    out, said = process.communicate(timeout=60)
    assert (process.returncode, said) == (0, "")
    assert out.startswith("clipbert ")
