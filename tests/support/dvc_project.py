"""A real project in a folder of its own: git, DVC, the graph and the smallest model."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import yaml
from forked_python import run_program
from preloaded_clipbert import preloaded_clipbert

PROJECT = Path(__file__).parents[2]
SMALLEST: dict[str, object] = {
    "ingest.max_quarantined_fraction": 0.5,
    "model.hidden_size": 16,
    "model.num_hidden_layers": 1,
    "model.num_attention_heads": 2,
    "model.image_size": 32,
    "train.batch_size": 8,
    "train.checkpoint_every_steps": 5,
    "train.min_steps": 0,
    "tasks.retrieval.epochs": 2,
    "tasks.open_qa.epochs": 2,
    "evaluate.clips": 2,
}


def run(*command: str, cwd: Path, code: int = 0) -> subprocess.CompletedProcess[str]:
    """Run a command with this environment's programs first on the path; anything but `code` fails the test."""
    done = subprocess.run(
        command, cwd=cwd, env=environment(), capture_output=True, text=True, timeout=1200, stdin=subprocess.DEVNULL
    )
    assert done.returncode == code, f"{command}\n{done.stdout}\n{done.stderr}"
    return done


def clipbert(*arguments: str, cwd: Path, code: int = 0) -> subprocess.CompletedProcess[str]:
    """Run `clipbert` in a process that need not import it; anything but `code` fails the test."""
    done = run_program("-m", "clipbert", *arguments, cwd=cwd, environment=environment())
    assert done.returncode == code, f"{arguments}\n{done.stdout}\n{done.stderr}"
    return done


def environment(preloaded: bool = True) -> dict[str, str]:
    """Return the environment of the commands; `preloaded`: with the `clipbert` that need not import."""
    folders = [Path(sys.executable).parent, os.environ["PATH"]]
    values = os.environ | {
        "PATH": os.pathsep.join(map(str, [preloaded_clipbert(), *folders] if preloaded else folders)),
        "COLUMNS": "160",
        "DVC_NO_ANALYTICS": "1",
        "OMP_WAIT_POLICY": "PASSIVE",
    }
    values.pop("MLFLOW_TRACKING_URI", None)
    return values


def stages_run(output: str) -> set[str]:
    """The stages that a `dvc repro` ran, from what it printed."""
    return {line.split("'")[1] for line in output.splitlines() if line.startswith("Running stage '")}


def set_params(root: Path, changes: dict[str, object]) -> None:
    """Write dotted parameters into params.yaml."""
    values = yaml.safe_load((root / "params.yaml").read_text())
    for key, value in changes.items():
        place = values
        *sections, name = key.split(".")
        for section in sections:
            place = place.setdefault(section, {})
        place[name] = value
    (root / "params.yaml").write_text(yaml.safe_dump(values, sort_keys=False))


def make_project(root: Path) -> Path:
    """A git and DVC project at `root` without data."""
    root.mkdir(parents=True, exist_ok=True)
    for name in ("dvc.yaml", ".gitignore", ".dvcignore"):
        shutil.copy(PROJECT / name, root / name)
    (root / ".dvc").mkdir()
    shutil.copy(PROJECT / ".dvc" / "config", root / ".dvc" / "config")
    shutil.copytree(PROJECT / "src", root / "src", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    (root / "mlflow").mkdir()
    shutil.copy(PROJECT / "params.yaml", root / "params.yaml")
    (root / "mlflow").mkdir(exist_ok=True)
    shutil.copy(PROJECT / "mlflow" / "promotion.yaml", root / "mlflow" / "promotion.yaml")
    set_params(root, SMALLEST)
    init_git(root)
    return root


def init_git(root: Path) -> None:
    """Make a git repository of a folder, with the branch main and an author."""
    run("git", "init", "-q", "-b", "main", cwd=root)
    for name, value in (("user.email", "test@example.com"), ("user.name", "Test")):
        run("git", "config", name, value, cwd=root)


def commit(root: Path, message: str) -> None:
    """Everything into git."""
    run("git", "add", "-A", cwd=root)
    run("git", "commit", "-q", "-m", message, cwd=root)


def copy_project(finished: Path, root: Path) -> Path:
    """Copy a finished project to `root` without its MLflow store, which holds absolute paths."""
    shutil.copytree(finished, root, symlinks=True, ignore=shutil.ignore_patterns("mlflow.db*"))
    shutil.rmtree(root / "mlflow" / "artifacts")
    return root
