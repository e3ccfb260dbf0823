"""The shape that docs/concepts/architecture.md draws, kept."""

import ast
import graphlib
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
PACKAGE = REPOSITORY / "src" / "clipbert"
FLOWS = REPOSITORY / "flows"
LONGEST_FILE = 600  # lines
# A module imports from its own level and from levels above it in this list; docs/concepts/architecture.md says why.
LEVELS = [
    {"errors", "console", "redact", "interruption", "exit_status", "text_normalization", "project", "web_guard"}
    | {"durations", "files", "pages", "process_pool"},
    {"config"},
    {"evaluation.metrics"},
    {"video"},
    {"sampling"},
    {"data"},
    {"frame_cache"},
    {"distributed"},
    {"model"},
    {"pretrained"},
    {"feature_cache"},
    {"tasks"},
    {"training"},
    {"recommend"},
    {"evaluation"},
    {"inference"},
    {"export", "prediction"},
    {"search"},
    {"release"},
    {"dashboard"},
    {"study"},
    {"server"},
    {"stages"},
    {"cli", "__main__"},
]
LEVEL = {name: number for number, names in enumerate(LEVELS) for name in names}
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
    rooms = [f"clipbert.{room}" for names in LEVELS[2:-2] for room in names]
    assert importers(FLOWS, "torch", "transformers", "numpy", "pandas", "mlflow", "dvc", *rooms) == {}


@pytest.mark.parametrize("room", ["frame_cache", "distributed", "model", "tasks", "training"])
def test_what_runs_on_a_gpu_machine_needs_no_driver_store_or_decoder(room: str) -> None:
    forbidden = ("mlflow", "prefect", "dvc", "great_expectations", "decord", "av")
    assert importers(PACKAGE / room, *forbidden) == {}


def test_parameters_alone_know_pydantic_which_a_gpu_machine_may_lack() -> None:
    # config/models.py gives the same names without it
    found = importers(PACKAGE, "pydantic", "pydantic_core")
    assert set(found) == {"config/models.py", "config/fields.py", "config/load.py"}


def test_the_folder_called_mlflow_is_no_package() -> None:
    assert list((REPOSITORY / "mlflow").glob("*.py")) == []
    assert not (REPOSITORY / "mlflow" / "__init__.py").exists()


def test_nothing_is_called_utils_helpers_common_or_legacy() -> None:
    names = {part.removesuffix(".py") for path in SOURCES for part in path.parts}
    assert names.isdisjoint({"utils", "util", "helpers", "helper", "common", "legacy", "misc"})


def package_imports() -> dict[str, set[str]]:
    """The modules of the package that each of its modules imports, wherever in the file, by dotted name."""
    modules = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
        modules[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return {name: {found for found in imported(path) if found in modules} for name, path in modules.items()}


def test_every_module_has_a_level() -> None:
    rooms = {name for name in LEVEL if "." not in name}
    assert {path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or (path / "__init__.py").is_file()} == {
        "__init__",
        *rooms,
    }


def test_imports_go_one_way() -> None:
    def level(module: str) -> int:
        _, room, *inner = module.split(".")
        return LEVEL.get(".".join([room, *inner[:1]]), LEVEL[room])

    wrong = {
        f"{name} imports {other}"
        for name, others in package_imports().items()
        for other in others
        if name != "clipbert" and other != "clipbert" and level(name) < level(other)
    }
    assert wrong == set()


def test_no_two_modules_import_each_other_in_a_circle() -> None:
    # An import of a package runs its __init__.py only, so a package and its own modules are not a circle.
    imports = {
        name: {other for other in others if other != "clipbert" and not name.startswith(f"{other}.")}
        for name, others in package_imports().items()
        if name != "clipbert"
    }
    sorter = graphlib.TopologicalSorter(imports)
    try:
        sorter.prepare()
    except graphlib.CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


def test_only_stages_and_the_command_line_know_all_parameters() -> None:
    whole = "clipbert.config.schema.Params"
    found = {path for path in importers(PACKAGE, whole) if not path.startswith(("cli/", "config/"))}
    assert found == {"stages.py"}


def test_a_file_can_be_read_in_one_sitting() -> None:
    lines = {path.as_posix(): len((REPOSITORY / path).read_text(encoding="utf-8").splitlines()) for path in SOURCES}
    assert {path: count for path, count in lines.items() if count > LONGEST_FILE} == {}


@pytest.mark.slow
def test_the_command_line_imports_nothing_heavy() -> None:
    heavy = ("torch", "mlflow", "transformers", "pandas", "great_expectations", "numpy", "prefect", "dvc")
    program = f"import sys, clipbert.cli.main; print([name for name in {heavy!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=REPOSITORY, check=True)
    assert done.stdout.strip() == "[]"


def test_no_two_test_modules_have_one_name() -> None:
    """Pytest and the fork server import test modules by name alone."""
    names = Counter(path.name for path in (REPOSITORY / "tests").rglob("*.py") if path.name != "conftest.py")
    assert [name for name, count in names.items() if count > 1] == []
