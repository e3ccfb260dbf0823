"""The `clipbert` that tests put on the PATH of DVC behaves as the program does."""

import contextlib
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import psutil
import pytest
from params_file import write_params
from preloaded_clipbert import preloaded_clipbert

pytestmark = pytest.mark.slow


def start(*arguments: str, cwd: Path) -> "subprocess.Popen[str]":
    command = [str(preloaded_clipbert() / "clipbert"), *arguments]
    return subprocess.Popen(
        command, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ | {"COLUMNS": "160"}
    )


def test_output_errors_and_exit_codes_are_those_of_the_program(tmp_path: Path) -> None:
    process = start("--version", cwd=tmp_path)
    said, complaint = process.communicate(timeout=60)
    assert (process.returncode, said.split()[0], complaint) == (0, "clipbert", "")
    process = start("train", "retrieval", cwd=tmp_path)
    said, complaint = process.communicate(timeout=60)
    assert (process.returncode, said) == (2, "")
    assert "params.yaml" in complaint


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_signals_reach_it(tmp_path: Path, tiny_project: Path, number: signal.Signals) -> None:
    shutil.copytree(tiny_project / "artifacts", tmp_path / "artifacts")
    write_params(tmp_path, "train: {min_steps: 100000, checkpoint_every_steps: 1}")
    process = start("train", "retrieval", cwd=tmp_path)
    until = time.monotonic() + 100
    while not list(tmp_path.glob("artifacts/checkpoints/retrieval/step-*")):
        assert time.monotonic() < until
        time.sleep(0.02)
    program = program_in(tmp_path)
    process.send_signal(number)
    process.communicate(timeout=60)
    assert process.returncode == (143 if number == signal.SIGTERM else -9)
    program.wait(60)


def program_in(cwd: Path) -> psutil.Process:
    """Return the process that works in `cwd`."""
    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):  # has ended, perhaps as a zombie
            if child.cwd() == str(cwd) and "forkserver" in " ".join(child.cmdline()):
                return child
    raise AssertionError(f"no program works in {cwd}")
