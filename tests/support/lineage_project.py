"""A git and DVC project whose model is a function of data/ and the seed: real versions to restore, without training."""

import json
import shutil
import sys
from pathlib import Path

import yaml
from dvc_project import commit, init_git, run
from small_releases import ITEMS, register_sections, save_model

from clipbert.config.schema import Params
from clipbert.evaluation.conditions import conditions
from clipbert.release.registry import Release, register

TASK = "retrieval"
STAGES = """
import hashlib, json, pathlib, shutil, sys
import numpy as np, pandas as pd, yaml

artifacts, data = pathlib.Path("artifacts"), pathlib.Path("data")
seed = yaml.safe_load(open("params.yaml"))["seed"]
captions = (data / "captions.jsonl").read_text().splitlines()

def write(path, value):
    path = artifacts / path
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))

if sys.argv[1] == "ingest":
    (artifacts / "manifest").mkdir(parents=True)
    write("manifest/captions.json", captions)
elif sys.argv[1] == "validate":
    (artifacts / "validation").mkdir(parents=True)
    checks = ["split_by_media", "split_by_file", "near_duplicates"]
    outcomes = [{"check": check, "severity": "fail", "success": True} for check in checks]
    near = {"media": 1, "of": 40, "max_near_duplicates": 0.05}
    write("validation/result.json", {"success": True, "expectations": outcomes, "near_duplicates": near})
elif sys.argv[1] == "train":
    from clipbert.files.checksums import write_checksums
    from safetensors.numpy import load_file, save_file
    out = artifacts / "models" / "retrieval"
    shutil.copytree(data / "start", out)
    weights = load_file(out / "model.safetensors")
    words = hashlib.sha256("".join(captions).encode()).digest()
    random = np.random.default_rng([seed, *words])
    changed = {k: np.asarray(v + SCALE * random.standard_normal(v.shape), v.dtype) for k, v in weights.items()}
    save_file(changed, out / "model.safetensors", {"format": "pt"})
    (out / "checksums.sha256").unlink()
    write_checksums(out, sorted(path for path in out.iterdir()))
    params = {"seed": seed, "train.lr": 0.002}
    tags = {"clipbert.git_commit": "none", "clipbert.data_digest": "none", "clipbert.device": "cpu"}
    write("runs/retrieval.json", {"task": "retrieval", "run_id": f"{seed:032x}", "params": params, "tags": tags})
else:
    from clipbert.evaluation.predictions_file import write_predictions
    weights = hashlib.sha256((artifacts / "models/retrieval/model.safetensors").read_bytes()).digest()
    score = (np.random.default_rng(list(weights)).random(ITEMS) < 0.6).astype(float)
    items = pd.DataFrame({"item_id": [f"t{n:04d}" for n in range(ITEMS)], "score": score, "chance": 0.1,
                          "blank_frames_score": 0.05, "text": "a red square"})
    items.attrs["evaluation"] = json.load(open("conditions.json"))
    metrics = {"retrieval/r1": 100 * float(score.mean())}
    write("metrics/retrieval.json", metrics)
    (artifacts / "predictions").mkdir(exist_ok=True)
    write_predictions(artifacts / "predictions" / "retrieval.parquet", items, metrics)
"""


def make_lineage_project(root: Path, remote: Path) -> Path:
    """Make a project with data in DVC and a remote, and commit it; nothing is run yet."""
    root.mkdir(parents=True)
    init_git(root)
    (root / ".dvc").mkdir()
    (root / ".dvc" / ".gitignore").write_text("/config.local\n/tmp\n/cache\n")
    (root / ".dvc" / "config").write_text("[core]\n    analytics = false\n")
    # The remote is known on this machine only, as one with a password would be.
    (root / ".dvc" / "config.local").write_text(f"[core]\n    remote = here\n['remote \"here\"']\n    url = {remote}\n")
    values = Params(tasks_run=[TASK]).model_dump(by_alias=True)
    (root / "params.yaml").write_text(yaml.safe_dump(json.loads(json.dumps(values)), sort_keys=False))
    (root / ".gitignore").write_text("/artifacts/\n/data\n/mlflow/*\n!/mlflow/project.json\n")
    params = Params()
    recorded = conditions(TASK, params.tasks.section(TASK), params.evaluate, params.frames)
    (root / "conditions.json").write_text(json.dumps({**recorded, "test_items": "of the test"}))
    (root / "stage.py").write_text(STAGES.replace("SCALE", "0.01").replace("ITEMS", str(ITEMS)))
    (root / "dvc.yaml").write_text(yaml.safe_dump({"stages": _stages()}, sort_keys=False))
    save_model(root / "data" / "start", TASK, 0)
    write_captions(root, 40)
    run("dvc", "add", "-q", "data", cwd=root)
    commit(root, "Start")
    return root


def write_captions(root: Path, count: int) -> None:
    """Replace the annotations by `count` captions."""
    lines = [json.dumps({"id": f"c{n}", "media": f"videos/{n}.mp4", "text": f"square {n}"}) for n in range(count)]
    (root / "data" / "captions.jsonl").write_text("\n".join(lines) + "\n")


def register_project(root: Path) -> Release:
    """Register the model in the project's folder."""
    paths = [root / "artifacts" / path for path in ("runs", "metrics", "predictions", "releases")]
    names = ("retrieval.json", "retrieval.json", "retrieval.parquet", "retrieval.json")
    files = [path / name for path, name in zip(paths, names, strict=True)]
    return register(root, TASK, root / "artifacts/models" / TASK, *files, **register_sections(TASK, Params()))


def remove_cache(root: Path) -> None:
    """Remove DVC's cache, so that files come from the remote."""
    shutil.rmtree(root / ".dvc" / "cache")


def _stages() -> dict[str, object]:
    python, artifacts = sys.executable, "artifacts"
    models, runs = f"{artifacts}/models/{TASK}", f"{artifacts}/runs/{TASK}.json"
    manifest, validation = f"{artifacts}/manifest", f"{artifacts}/validation"
    evaluated = [f"{artifacts}/metrics/{TASK}.json", f"{artifacts}/predictions/{TASK}.parquet"]

    def stage(name: str, deps: list[str], outs: list[str], params: list[str] | None = None) -> dict[str, object]:
        found = {"cmd": f"{python} stage.py {name}", "deps": ["stage.py", *deps], "outs": outs}
        return found if params is None else found | {"params": params}

    return {
        "ingest": stage("ingest", ["data"], [manifest]),
        "validate": stage("validate", [manifest], [validation]),
        "train": stage("train", ["data", manifest, validation], [models, runs], ["seed"]),
        "evaluate": stage("evaluate", [models], evaluated),
    }
