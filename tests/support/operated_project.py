"""The project of docs/operate.md, in which a test types the commands of the page."""

import re
import shutil
import subprocess
from pathlib import Path

from dvc_project import PROJECT, environment, init_git, run
from dvc_project import make_project as make_pipeline

PAGE = PROJECT / "docs" / "operate.md"


def page_command(start: str) -> str:
    """Return the only command of the page that begins with `start`, with its continued lines."""
    text = PAGE.read_text(encoding="utf-8")
    commands = [match[1] for match in re.finditer(r"^    \$ ((?:.*\\\n)*.*)$", text, flags=re.M)]
    (found,) = {command for command in commands if command.startswith(start)}
    return found


def clone(root: Path) -> Path:
    """Make what `git clone` would leave of this working tree, as far as the page uses it."""
    make_pipeline(root)
    for name in ("params.yaml", "prefect.yaml", "data.dvc"):
        shutil.copy(PROJECT / name, root / name)
    for name in ("flows", "scripts"):
        shutil.copytree(PROJECT / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))
    init_git(root)
    run("git", "add", "-A", cwd=root)
    run("git", "commit", "-q", "-m", "Clone", cwd=root)
    return root


class Terminal:
    """A shell in the project's folder; the file terminal.txt next to it has the commands with their output.

    Args:
        root: the project's folder.
        home: the folder of Prefect's files.
        variables: more environment variables.
    """

    def __init__(self, root: Path, home: Path, **variables: str) -> None:
        self.root = root
        values = environment(preloaded=False)
        kept = {name: value for name, value in values.items() if not name.startswith("PREFECT_API")}
        kept.pop("PYTHONDONTWRITEBYTECODE", None)  # each process would compile the code again
        self.environment = kept | {"PREFECT_HOME": str(home)} | variables
        self.log = root.parent / "terminal.txt"

    def type(self, start: str) -> str:
        """Run the command of the page that begins with `start`; see `run`."""
        return self.run(page_command(start))

    def run(self, command: str) -> str:
        """Run a command; return what it printed. Any exit code but 0 fails the test."""
        done = subprocess.run(
            ["bash", "-o", "pipefail", "-c", command],
            cwd=self.root,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=400,
        )
        with self.log.open("a") as log:
            log.write(f"$ {command}\n{done.stdout}")
        assert done.returncode == 0, f"{command}\n{done.stdout}"
        return done.stdout
