"""Python processes without most packages, as on a machine with a GPU that nothing was installed on."""

import functools
import importlib.metadata
import os
import subprocess
import sys
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

REPOSITORY = Path(__file__).resolve().parents[2]
# docs/how-to/gpu.md lists these; with what they require they are there.
NEEDED = ("torch", "transformers", "pandas", "pyarrow", "pillow", "pyyaml", "rich", "filelock", "fsspec", "regex")
FOR_TESTS = ("pytest", "pytest-timeout", "pytest-xdist")
# typer, which transformers requires, has come to require pydantic; the GPU machine's has not.
ABSENT = {"pydantic", "pydantic-core", "annotated-types", "typing-inspection"}


@functools.cache
def held_modules() -> tuple[str, ...]:
    """Return the top-level modules that such a machine has of those installed here."""
    wanted, found = [*NEEDED, *FOR_TESTS], set[str]()
    while wanted:
        name = canonicalize_name(wanted.pop())
        if name in found or name in ABSENT:
            continue
        try:
            requires = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:
            continue  # of another platform
        found.add(name)
        for requirement in map(Requirement, requires):
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                wanted.append(requirement.name)
    modules = importlib.metadata.packages_distributions()
    return tuple(module for module, names in modules.items() if any(canonicalize_name(name) in found for name in names))


BLOCK = """
import importlib.machinery, sys
held = set(sys.argv.pop(1).split(","))
class Held(importlib.machinery.PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        places = [] if spec is None else [spec.origin or "", *(spec.submodule_search_locations or [])]
        installed = path is None and any("-packages" in place for place in places)
        return None if installed and name not in held else spec
sys.meta_path[sys.meta_path.index(importlib.machinery.PathFinder)] = Held
"""


def run_bare(program: str, *arguments: str, cwd: Path = REPOSITORY) -> str:
    """Return what a program prints in a process that finds no installed package but `held_modules`.

    Raises:
        AssertionError: it failed; with its output.
    """
    path = os.pathsep.join(str(REPOSITORY / folder) for folder in ("src", ".", "tests/support"))
    command = [sys.executable, "-c", BLOCK + program, ",".join(held_modules()), *arguments]
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=environment, timeout=550)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
