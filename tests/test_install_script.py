"""`make install` installs with uv, from PATH or from the package index, and with pip where uv is missing or fails."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

SCRIPT = Path(__file__).parents[1] / "scripts" / "install.sh"
PIP = "python -m pip install -qq --disable-pip-version-check"
UV = "uv pip install -q --python {python} --find-links /wheels --find-links https://mirror/torch"
LOCKED = "-r requirements.lock"
PROJECT = "--no-deps --no-build-isolation --editable ."


def program(path: Path, lines: str) -> None:
    path.write_text(f'#!/bin/sh\necho "{path.name} $*" >> "$LOG"\n{lines}\n')
    path.chmod(0o755)


@pytest.fixture
def commands(tmp_path: Path) -> "Commands":
    return Commands(tmp_path)


class Commands:
    """The script, with programs that only record their arguments."""

    def __init__(self, folder: Path) -> None:
        (folder / "scripts").mkdir()
        (folder / "venv").mkdir()
        shutil.copy(SCRIPT, folder / "scripts")
        self.folder, self.log = folder, folder / "log"
        self.python = folder / "venv" / "python"
        program(self.python, "true")

    def run(self) -> list[str]:
        """The commands that the script ran; `uv` of the machine is not on its PATH."""
        environment = {
            "PATH": f"{self.folder}/bin:/usr/bin:/bin",
            "LOG": str(self.log),
            "PIP_FIND_LINKS": "/wheels https://mirror/torch",
        }
        subprocess.run(["scripts/install.sh", str(self.python)], cwd=self.folder, env=environment, check=True)
        return self.log.read_text().splitlines()


@pytest.mark.skipif(
    any(os.access(f"{place}/uv", os.X_OK) for place in ("/usr/bin", "/bin")), reason="uv is in /usr/bin"
)
class TestInstall:
    def test_uv_of_the_path(self, commands: "Commands") -> None:
        (commands.folder / "bin").mkdir()
        program(commands.folder / "bin" / "uv", "true")
        uv = UV.format(python=commands.python)
        assert commands.run() == [f"{uv} {LOCKED}", f"{uv} {PROJECT}"]

    def test_uv_of_the_index(self, commands: "Commands") -> None:
        program(commands.folder / "venv" / "uv", "true")  # what pip would have installed
        uv = UV.format(python=commands.python)
        assert commands.run() == [f"{PIP} --only-binary :all: uv", f"{uv} {LOCKED}", f"{uv} {PROJECT}"]

    def test_pip_where_the_index_has_no_uv(self, commands: "Commands") -> None:
        program(commands.python, 'case "$*" in *" uv") exit 1;; esac')
        assert commands.run() == [f"{PIP} --only-binary :all: uv", f"{PIP} {LOCKED}", f"{PIP} {PROJECT}"]

    def test_pip_where_uv_fails(self, commands: "Commands") -> None:
        program(commands.folder / "venv" / "uv", "exit 2")
        uv = UV.format(python=commands.python)
        assert commands.run()[1:] == [f"{uv} {LOCKED}", f"{PIP} {LOCKED}", f"{PIP} {PROJECT}"]
