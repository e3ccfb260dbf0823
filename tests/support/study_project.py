"""A project whose stages write their metrics at once, and a command that measures without a model, for studies."""

import json
import sys
from pathlib import Path

import yaml
from dvc_project import commit, init_git

from clipbert.config.schema import Params
from clipbert.project import Project
from clipbert.study.grid import read_grid
from clipbert.study.plan import make_plan
from clipbert.study.runner import Study

# Appends a line for each training to trainings.log of the project; a file named "fail" there makes one setting fail,
# and a file named "hang" makes every training wait for its removal.
STAGE = """
import json, pathlib, sys, time, yaml
verb, task = sys.argv[1:]
params, control = yaml.safe_load(open("params.yaml")), pathlib.Path({control!r})
pathlib.Path("artifacts/training").mkdir(parents=True, exist_ok=True)
pathlib.Path("artifacts/metrics").mkdir(parents=True, exist_ok=True)
size, seed = params["model"]["image_size"], params["seed"]
if verb == "train":
    with (control / "trainings.log").open("a") as log:
        log.write(f"{{size}} {{seed}}\\n")
    while (control / "hang").exists():
        time.sleep(0.1)
    if (control / "fail").exists() and size == 96:
        sys.exit("no memory")
    cost = {{f"{{task}}_val/mrr": 50.0, f"{{task}}_cost/seconds": 5.0, f"{{task}}_cost/tflop": size / 10}}
    pathlib.Path(f"artifacts/training/{{task}}.json").write_text(json.dumps(cost))
else:
    pathlib.Path(f"artifacts/metrics/{{task}}.json").write_text(json.dumps({{f"{{task}}/r1": size / 2}}))
"""
# More right items with a larger image and with more clips.
MEASURE = """
import argparse, json, pathlib, sys, yaml
sys.path.insert(0, {support!r})
from compared import ranked_items
from clipbert.evaluation.predictions_file import write_predictions
parser = argparse.ArgumentParser()
for name in ("task", "--clips", "--out", "--aggregations"):
    parser.add_argument(name)
options, params = parser.parse_args(), yaml.safe_load(open("params.yaml"))
out, found = pathlib.Path(options.out), []
out.mkdir(parents=True, exist_ok=True)
for clips in map(int, options.clips.split(",")):
    right = params["model"]["image_size"] // 4 + clips + params["seed"]
    items = ranked_items([1.0 if number < right else 3.0 for number in range(40)])
    write_predictions(out / f"clips{{clips}}.parquet", items, {{}})
    found.append({{"clips": clips, "aggregation": "lse", "own": True, "training_clips": 1, "ms_per_item": float(clips),
        "file": f"{{out.name}}/clips{{clips}}.parquet", "metrics": {{"retrieval/r1": 2.5 * right}}}})
(out / "evaluations.json").write_text(json.dumps({{"evaluations": found}}))
"""
FILE = Path("recipes", "study", "sizes.yaml")
GRID = {
    "task": "retrieval",
    "budget": "20 steps",
    "seeds": [0],
    "params": {"model.image_size": 64},
    "axes": {"image size": {"model.image_size": [64, 96]}},
    "evaluate": {"clips": [1, 2]},
}


def make_study_project(root: Path) -> Path:
    """Make a project with a grid in recipes/study/sizes.yaml and commit it."""
    (root / ".dvc").mkdir(parents=True)
    (root / ".dvc" / "config").write_text("[core]\n    analytics = false\n")
    (root / ".dvc" / ".gitignore").write_text("/config.local\n/tmp\n/cache\n")
    params = Params(tasks_run=["retrieval"]).model_dump(by_alias=True)
    (root / "params.yaml").write_text(yaml.safe_dump(json.loads(json.dumps(params)), sort_keys=False))
    control = root.parent / "control"
    control.mkdir()
    (control / "trainings.log").touch()
    (control / "measure.py").write_text(MEASURE.format(support=str(Path(__file__).parent)))
    (root / "stage.py").write_text(STAGE.format(control=str(control)))
    (root / ".gitignore").write_text("/artifacts/\n")
    stages = {}
    for verb, folder, needs in (("train", "training", "stage.py"), ("evaluate", "metrics", "artifacts/training/")):
        needed = needs if needs.endswith(".py") else f"{needs}${{item.task}}.json"
        stages[verb] = {
            "matrix": {"task": "${tasks_run}"},
            "cmd": f"{sys.executable} stage.py {verb} ${{item.task}}",
            "deps": [needed],
            "params": ["seed", "model", "train"],
            "metrics": [f"artifacts/{folder}/${{item.task}}.json"],
        }
    (root / "dvc.yaml").write_text(yaml.safe_dump({"stages": stages}))
    write_grid(root / FILE)
    init_git(root)
    commit(root, "Start")
    return root


def write_grid(path: Path, **changes: object) -> Path:
    """Write a grid that differs from `GRID` in some fields; None leaves a field out."""
    values = {name: value for name, value in (GRID | changes).items() if value is not None}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(values, sort_keys=False))
    return path


def open_study(root: Path) -> Study:
    """Return the study of the project's grid, measured by the project's own program."""
    recipes = root / "recipes"
    plan = make_plan(read_grid(root / FILE, recipes), root / "params.yaml", recipes)
    measure = (sys.executable, str(root.parent / "control" / "measure.py"))
    return Study(Project(root), plan, f"sqlite:///{root}/mlflow/mlflow.db", measure)
