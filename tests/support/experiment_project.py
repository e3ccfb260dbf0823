"""A git and DVC project whose stage writes metrics files at once: real experiments without a training."""

import json
import sys
from pathlib import Path
from typing import Any

import yaml
from dvc_project import commit, init_git, run

from clipbert.config.schema import Params

STAGE = """
import json, pathlib, yaml
params = yaml.safe_load(open("params.yaml"))
lr = params["train"]["lr"]
score = 50 + 1000 * lr
test = {"retrieval/r1": score, "retrieval/r1_ci_low": score - 5, "retrieval/r1_ci_high": score + 5}
# a validation metric that says the opposite of the test metric
training = {"retrieval_val/mrr": 90 - 1000 * lr, "retrieval_cost/seconds": 100 * lr, "retrieval_cost/tflop": 2.5}
for folder, values in (("metrics", test), ("training", training)):
    path = pathlib.Path("artifacts", folder, "retrieval.json")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(values))
"""


def make_experiment_project(root: Path) -> Path:
    """Make a project in which the metrics of retrieval are a function of `train.lr`; run its stage and commit."""
    root.mkdir(parents=True)
    init_git(root)
    (root / ".dvc").mkdir()
    (root / ".dvc" / "config").write_text("[core]\n    analytics = false\n")
    (root / ".dvc" / ".gitignore").write_text("/config.local\n/tmp\n/cache\n")
    values = Params(tasks_run=["retrieval"]).model_dump(by_alias=True)
    (root / "params.yaml").write_text(yaml.safe_dump(json.loads(json.dumps(values)), sort_keys=False))
    (root / "stage.py").write_text(STAGE)
    (root / ".gitignore").write_text("/artifacts/\n")
    metrics = [{f"artifacts/{folder}/retrieval.json": {"cache": True}} for folder in ("metrics", "training")]
    stage: dict[str, Any] = {"cmd": f"{sys.executable} stage.py", "params": ["train.lr"], "metrics": metrics}
    (root / "dvc.yaml").write_text(yaml.safe_dump({"stages": {"train": stage}}))
    run("dvc", "repro", "-q", cwd=root)
    commit(root, "Start")
    return root


def run_experiment(root: Path, name: str, *changes: str) -> None:
    """Run an experiment with `key=value` changes and restore the parameters; the metrics stay those of it."""
    arguments = [part for change in changes for part in ("-S", change)]
    run("dvc", "exp", "run", "-q", "-n", name, *arguments, cwd=root)
    run("git", "checkout", "-q", "-f", ".", cwd=root)
