"""The shape that docs/architecture.md draws, kept."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
PACKAGE = REPOSITORY / "src" / "clipbert"
FLOWS = REPOSITORY / "flows"
LONGEST = 400
SOURCES = sorted(
    path.relative_to(REPOSITORY)
    for folder in ("src", "flows", "tests", "benchmarks", "scripts")
    for path in (REPOSITORY / folder).rglob("*.py")
)


def imported(path: Path) -> set[str]:
    """Every module that a file imports, wherever in the file, with the names it takes from it."""
    found = set()
    for node in ast.walk(ast.parse((REPOSITORY / path).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            found.add(node.module or "")
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
    return found


def importers(folder: Path, *modules: str) -> dict[str, list[str]]:
    """The files below `folder` that import one of `modules` or something inside it."""
    found = {}
    for path in sorted(folder.rglob("*.py")):
        names = [
            name for name in imported(path) for module in modules if name == module or name.startswith(f"{module}.")
        ]
        if names:
            found[path.relative_to(folder).as_posix()] = sorted(names)
    return found


def test_the_package_knows_neither_driver() -> None:
    assert importers(PACKAGE, "prefect", "dvc", "flows") == {}


def test_mlflow_lives_in_release_and_nowhere_else() -> None:
    assert [path for path in importers(PACKAGE, "mlflow") if not path.startswith("release/")] == []


def test_flows_hold_no_model_data_or_metric_code() -> None:
    rooms = [f"clipbert.{room}" for room in ("model", "data", "frames", "tasks", "train", "evaluate", "release")]
    assert importers(FLOWS, "torch", "transformers", "numpy", "pandas", "mlflow", "dvc", *rooms) == {}


@pytest.mark.parametrize("room", ["model", "tasks", "train"])
def test_what_runs_on_a_gpu_machine_needs_no_driver_store_or_decoder(room: str) -> None:
    forbidden = ("mlflow", "prefect", "dvc", "great_expectations", "decord", "av")
    assert importers(PACKAGE / room, *forbidden) == {}


def test_the_folder_called_mlflow_is_no_package() -> None:
    assert list((REPOSITORY / "mlflow").glob("*.py")) == []
    assert not (REPOSITORY / "mlflow" / "__init__.py").exists()


def test_nothing_is_called_utils_helpers_common_or_legacy() -> None:
    names = {part.removesuffix(".py") for path in SOURCES for part in path.parts}
    assert names.isdisjoint({"utils", "util", "helpers", "helper", "common", "legacy", "misc"})


def test_a_file_is_readable_in_one_sitting() -> None:
    lines = {path.as_posix(): len((REPOSITORY / path).read_text(encoding="utf-8").splitlines()) for path in SOURCES}
    assert {path: count for path, count in lines.items() if count > LONGEST} == {}


def test_the_command_line_imports_nothing_heavy() -> None:
    heavy = ("torch", "mlflow", "transformers", "pandas", "great_expectations", "numpy", "prefect", "dvc")
    program = f"import sys, clipbert.cli.main; print([name for name in {heavy!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=REPOSITORY, check=True)
    assert done.stdout.strip() == "[]"
