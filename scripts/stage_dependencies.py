"""Check or write the code dependencies of the stages in dvc.yaml: the modules that their commands import.

    python scripts/stage_dependencies.py           list the differences from dvc.yaml; exit code 1 if there are any
    python scripts/stage_dependencies.py --write   write the lists into dvc.yaml; all other lines stay unchanged

DVC reruns a stage when one of its dependencies changes. The list of a stage is the static import closure of its
`cmd`, starting at the function of each command in `clipbert/stages.py` (and in `clipbert/cli/pipeline.py`): imports
inside functions count, imports under TYPE_CHECKING do not. A template, a style sheet, a script or a Python file that a
module names belongs to that module. A folder is listed instead of its files if all of them are in the closure.
"""

import argparse
import ast
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = Path("src/clipbert")

# Modules that do not affect results. A change to one of them must not retrain every model.
INFRASTRUCTURE = {
    "__init__.py": "the version and the lazy name `clipbert.pipeline`, which no stage uses",
    "config/": "reads params.yaml, whose values DVC compares itself (`params` of each stage)",
    "console.py": "progress and messages",
    "errors.py": "the exception for user errors",
    "exit_status.py": "exit codes of the processes of a training",
    "files/": "writes the callers' bytes atomically, checks folders and removes temporary files",
    "interruption.py": "the closing line of an interrupted command",
    "project.py": "names of files and folders",
    "redact.py": "hides secrets in printed and recorded text",
    "stages.py": "has one function per command: as a dependency, a change to one command would rerun all stages",
}
# Tracking records a training or an evaluation without changing it: only stages that register a model depend on this
# package, which makes their output.
TRACKING = "release"
TRACKING_VERBS = {"register"}
# Imports that no stage runs: the processor decodes files for users, but stages read the frame cache. With this import,
# each change to a decoder would retrain all models even if no cached frame changes.
NOT_RUN = {("model/processor.py", "clipbert.sampling.video_input")}


def python_files(root: Path = ROOT) -> dict[str, Path]:
    """Return {dotted name: path below `src/clipbert`} of each module."""
    found = {}
    for path in sorted((root / PACKAGE).rglob("*.py")):
        relative = path.relative_to(root / PACKAGE)
        parts = ["clipbert", *relative.with_suffix("").parts]
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = relative
    return found


class Closure:
    """Import graph of the package, read from its sources."""

    def __init__(self, root: Path = ROOT) -> None:
        self.root = root
        self.modules = python_files(root)
        self._trees: dict[Path, ast.Module] = {}

    def of_verb(self, verb: str) -> set[Path]:
        """Return the files below `src/clipbert` that a command imports, without infrastructure and tracking."""
        wanted = list(self._of_function(Path("stages.py"), verb.replace("-", "_")))
        for node in self._tree(Path("cli/pipeline.py")).body:
            if isinstance(node, ast.FunctionDef) and node.name == verb.replace("-", "_"):
                wanted += self._imported(node)
        found: set[Path] = set()
        while wanted:
            for path in self._files(wanted.pop()):
                if path in found or self._left_out(path, verb):
                    continue
                found.add(path)
                found |= set(self._data_files(path))
                imported = self._imported(self._tree(path))
                wanted += [name for name in imported if (path.as_posix(), name) not in NOT_RUN]
        return found

    def _left_out(self, path: Path, verb: str) -> bool:
        tracking = path.parts[0] == TRACKING and verb not in TRACKING_VERBS
        infrastructure = path.as_posix() in INFRASTRUCTURE or f"{path.parts[0]}/" in INFRASTRUCTURE
        return infrastructure or tracking

    def _files(self, module: str) -> Iterator[Path]:
        """Yield the file of a module and the `__init__.py` of its parent packages, all of which an import runs."""
        parts = module.split(".")
        for end in range(1, len(parts) + 1):
            if (path := self.modules.get(".".join(parts[:end]))) is not None:
                yield path

    def _of_function(self, path: Path, name: str) -> Iterator[str]:
        """Yield the imports of a function and of the functions and classes of the same file that it uses."""
        tree = self._tree(path)
        defined = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)}
        for node in tree.body:  # module-level assignments
            if isinstance(node, ast.Assign | ast.AnnAssign):
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                defined |= {target.id: node for target in targets if isinstance(target, ast.Name)}
        top = {
            (alias.asname or alias.name).split(".")[0]: module
            for node in tree.body
            if isinstance(node, ast.Import | ast.ImportFrom)
            for alias, module in zip(node.names, self._modules_of(node), strict=True)
        }
        if name not in defined:
            return
        wanted, seen = [name], {name}
        while wanted:
            node = defined[wanted.pop()]
            yield from self._imported(node)
            for used in {found.id for found in ast.walk(node) if isinstance(found, ast.Name)} - seen:
                seen.add(used)
                if used in defined:
                    wanted.append(used)
                elif used in top:
                    yield top[used]

    def _imported(self, tree: ast.AST) -> list[str]:
        skipped = {
            id(inner)
            for node in ast.walk(tree)
            if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
            for statement in node.body
            for inner in ast.walk(statement)
        }
        found = []
        for node in ast.walk(tree):
            if isinstance(node, ast.Import | ast.ImportFrom) and id(node) not in skipped:
                found += self._modules_of(node)
            # import_module(f"clipbert.tasks.{name}") may import any module of that package
            elif isinstance(node, ast.JoinedStr) and isinstance(node.values[0], ast.Constant):
                prefix = str(node.values[0].value)
                if re.fullmatch(r"clipbert(\.\w+)+\.", prefix):
                    found += [name for name in self.modules if name.startswith(prefix)]
            # the name of a Python file, such as the code of the model that MLflow runs
            elif isinstance(node, ast.Constant) and re.fullmatch(r"\w+\.py", str(node.value)):
                found += [name for name, path in self.modules.items() if path.name == node.value]
        return found

    def _modules_of(self, node: ast.Import | ast.ImportFrom) -> list[str]:
        if isinstance(node, ast.Import):
            return [alias.name for alias in node.names]
        # `from clipbert.model import load` may import a module or a name of the package
        names = [f"{node.module}.{alias.name}" for alias in node.names]
        return [name if name in self.modules else str(node.module) for name in names]

    def _data_files(self, path: Path) -> Iterator[Path]:
        """Yield the templates, style sheets and scripts in a module's folder that the module names."""
        for node in ast.walk(self._tree(path)):
            if isinstance(node, ast.Constant) and re.fullmatch(r"[\w.]+\.(j2|css|js)", str(node.value)):
                named = path.parent / str(node.value)
                if (self.root / PACKAGE / named).is_file():
                    yield named

    def _tree(self, path: Path) -> ast.Module:
        if path not in self._trees:
            self._trees[path] = ast.parse((self.root / PACKAGE / path).read_text(encoding="utf-8"))
        return self._trees[path]


def collapse(files: Iterable[Path], root: Path = ROOT) -> list[str]:
    """Replace all files of a folder by the folder; return sorted paths from the project root."""
    names = set(files)
    folders = {parent for name in names for parent in name.parents if parent != Path(".")}
    for folder in sorted(folders, key=lambda folder: len(folder.parts)):
        inside = {
            path.relative_to(root / PACKAGE)
            for path in (root / PACKAGE / folder).rglob("*")
            if path.is_file() and "__pycache__" not in path.parts
        }
        if inside <= names:
            names = {name for name in names if folder not in name.parents} | {folder}
    return sorted((PACKAGE / name).as_posix() for name in names)


def expected(text: str, root: Path = ROOT) -> dict[str, list[str]]:
    """Return the code dependencies of each stage of a dvc.yaml that runs `clipbert` commands."""
    closure = Closure(root)
    found = {}
    for stage, lines in _stages(text).items():
        verbs = re.findall(r"^ +(?:cmd:|-) +clipbert ([a-z-]+)", "\n".join(lines), re.MULTILINE)
        if verbs:
            found[stage] = collapse(set().union(*(closure.of_verb(verb) for verb in verbs)), root)
    return found


def declared(text: str) -> dict[str, list[str]]:
    """Return the dependencies below src/clipbert that each stage of a dvc.yaml lists."""
    return {stage: [line.strip()[2:] for line in lines if _is_code(line)] for stage, lines in _stages(text).items()}


def rewritten(text: str, root: Path = ROOT) -> str:
    """Return a dvc.yaml with the expected code dependencies; all other lines, also comments, are unchanged."""
    lists = expected(text, root)
    lines, out, stage, pending = text.splitlines(), [], "", False
    for line in [*lines, ""]:
        if pending and not re.match(r"^      ", line):
            out += [f"      - {path}" for path in lists[stage]]
            pending = False
        if match := re.match(r"^  ([\w-]+):\s*(#.*)?$", line):
            stage = match[1]
        pending = pending or (re.match(r"^    deps:", line) is not None and stage in lists)
        if not (pending and _is_code(line)):
            out.append(line)
    return "\n".join(out[:-1]) + "\n"


def _is_code(line: str) -> bool:
    return re.match(rf"^      - {PACKAGE.as_posix()}(/|$)", line) is not None


def _stages(text: str) -> dict[str, list[str]]:
    """Return the lines of each stage of a dvc.yaml: stages are indented by two spaces, their keys by four."""
    found: dict[str, list[str]] = {}
    section, stage = "", ""
    for line in text.splitlines():
        if match := re.match(r"^(\w+):", line):
            section = match[1]
        elif section == "stages" and (match := re.match(r"^  ([\w-]+):\s*(#.*)?$", line)):
            stage = match[1]
            found[stage] = []
        elif section == "stages" and stage:
            found[stage].append(line)
    return found


def differences(text: str, root: Path = ROOT) -> list[str]:
    """Return a line for each missing or unneeded dependency of a stage."""
    now = declared(text)
    found = []
    for stage, wanted in expected(text, root).items():
        found += [f"{stage}: {path} is missing" for path in sorted(set(wanted) - set(now[stage]))]
        found += [f"{stage}: {path} is not needed" for path in sorted(set(now[stage]) - set(wanted))]
    return found


def main() -> int:
    """Check the lists of dvc.yaml, or write them."""
    parser = argparse.ArgumentParser(description="Check the code dependencies of the stages in dvc.yaml.")
    parser.add_argument("--write", action="store_true", help="write the lists into dvc.yaml")
    write = parser.parse_args().write
    path = ROOT / "dvc.yaml"
    text = path.read_text(encoding="utf-8")
    found = differences(text)
    for line in found:
        print(line)
    if write and found:
        path.write_text(rewritten(text), encoding="utf-8")
        print(f"{path.name}: written")
    elif found:
        print("Run `python scripts/stage_dependencies.py --write`.")
    return 1 if found and not write else 0


if __name__ == "__main__":
    sys.exit(main())
