"""Ctrl-C while the command starts: one line, exit code 130, no traceback."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

# Prints a mark once Python itself is up: before that no program can answer a signal.
COMMAND = "import sys; print('up', flush=True); from clipbert.__main__ import main; sys.argv[0] = 'clipbert'; main()"
# Sends SIGINT to its own process when the import of a module begins: the moments between two of them, without a clock.
INTERRUPTED = """
import os, signal, sys
from clipbert.__main__ import main

class Interrupt:
    def find_spec(self, name, path=None, target=None):
        if name == {name!r}:
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Interrupt())
sys.argv[0] = "clipbert"
main()
"""


@pytest.mark.parametrize(
    "name", ["clipbert.cli.main", "typer", "clipbert.config.schema", "pydantic", "yaml", "clipbert.redact"]
)
def test_ctrl_c_while_starting_leaves_one_line(tmp_path: Path, name: str) -> None:
    command = [sys.executable, "-c", INTERRUPTED.format(name=name), "doctor"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (130, "")
    assert done.stderr == "clipbert: interrupted while starting; nothing was changed.\n"


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
