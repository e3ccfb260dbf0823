"""`make gpu` and scripts/gpu.sh: no .venv is needed, and a Python without torch is refused."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.gpu.parts import PARTS

pytestmark = pytest.mark.slow

REPOSITORY = Path(__file__).resolve().parents[2]


def run(*command: str, python: str) -> "subprocess.CompletedProcess[str]":
    # `make test` passes its own flags on, with which this make would report its folders
    inherited = {name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MFLAGS", "MAKELEVEL")}
    environment = inherited | {"PYTHON": python, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=240)


def test_make_gpu_lists_the_parts() -> None:
    done = run("make", "gpu", "GPU_ARGS=--list", python=sys.executable)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert [line.split()[0] for line in lines] == [part.name for part in PARTS]
    assert "100 s  a training step compared with the paper's loop" in lines[1]


def test_a_python_without_torch_is_refused(tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" -S "$@"\n')  # -S: no installed packages
    python.chmod(0o755)
    done = run("scripts/gpu.sh", "--dry-run", python=str(python))
    assert done.returncode == 2
    assert f"scripts/gpu.sh: {python} has no torch or no transformers; name another: PYTHON=" in done.stderr
