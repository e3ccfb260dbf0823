"""Gain of pretraining: retrieval from the pretrained model and from random weights, with equal steps and seeds.

python benchmarks/pretraining.py --seeds 0 1 2 --json pretraining.json

Makes the sample set in a temporary project (or uses the frame cache of --project), and runs the verbs a user runs.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import yaml

SHOWN = ("retrieval/r1", "retrieval/r5", "retrieval/r10", "retrieval/median_rank")
ROOT = Path(__file__).resolve().parents[1]


def clipbert(project: Path, *arguments: str) -> None:
    """Run one verb in the project; its output is shown only where it failed."""
    done = subprocess.run([sys.executable, "-m", "clipbert", *arguments], cwd=project, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"clipbert {' '.join(arguments)} failed:\n{done.stdout}{done.stderr}")


def prepare(project: Path, source: Path | None) -> None:
    """Manifest and frame cache of the sample set, or copies of those of `source`."""
    for name in ("params.yaml", "dvc.yaml"):
        shutil.copy(ROOT / name, project / name)
    if source is not None:
        for name in ("manifest", "frames"):
            shutil.copytree(source / "artifacts" / name, project / "artifacts" / name)
        return
    for verb in ("sample-data", "ingest", "validate", "frames"):
        clipbert(project, verb)


def set_params(project: Path, seed: int, init_from: str | None, epochs: dict[str, int]) -> None:
    """params.yaml of one training."""
    params = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    params["seed"] = seed
    params["model"]["init_from"] = init_from
    for task, count in epochs.items():
        params["tasks"][task]["epochs"] = count
    (project / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False), encoding="utf-8")


def measured(project: Path, task: str) -> dict[str, float]:
    """Train and evaluate; the metrics of the test split, with the training's `seconds` and `steps`."""
    start = time.perf_counter()
    clipbert(project, "train", task)
    seconds = time.perf_counter() - start
    clipbert(project, "evaluate", task)
    metrics = json.loads((project / "artifacts/metrics" / f"{task}.json").read_text(encoding="utf-8"))
    history = (project / "artifacts/history" / task / "train.csv").read_text(encoding="utf-8").splitlines()
    return {**metrics, "seconds": seconds, "steps": float(history[-1].split(",")[0])}


def main() -> None:
    """Print one table and write it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--pretrain-epochs", type=int, help="default: of params.yaml")
    parser.add_argument("--retrieval-epochs", type=int, nargs="+", help="default: of params.yaml")
    parser.add_argument("--project", type=Path, help="a project whose manifest and frame cache to use")
    arguments = parser.parse_args()
    defaults = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))["tasks"]
    lengths = arguments.retrieval_epochs or [defaults["retrieval"]["epochs"]]
    pretrain_epochs = arguments.pretrain_epochs or defaults["pretrain"]["epochs"]
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        project = Path(folder)
        prepare(project, arguments.project)
        for seed in arguments.seeds:
            set_params(project, seed, None, {"pretrain": pretrain_epochs})
            start = measured(project, "pretrain")
            rows.append({"seed": seed, "start": "pretrain", "epochs": pretrain_epochs, **start})
            told = {key.removeprefix("pretrain/"): round(value, 1) for key, value in start.items()}
            print(f"seed {seed}  pretrain  {told}", flush=True)
            for epochs in lengths:
                for init_from in (None, "artifacts/models/pretrain"):
                    set_params(project, seed, init_from, {"retrieval": epochs})
                    row = measured(project, "retrieval")
                    rows.append({"seed": seed, "start": init_from or "scratch", "epochs": epochs, **row})
                    numbers = "  ".join(f"{name.partition('/')[2]} {row[name]:5.1f}" for name in SHOWN)
                    print(
                        f"seed {seed}  {epochs} epochs  {row['steps']:.0f} steps  {row['seconds']:.0f} s  "
                        f"{'pretrained' if init_from else 'scratch':<10}  {numbers}",
                        flush=True,
                    )
    summary = []
    print(f"\n{'epochs':>6}  {'metric':<24}{'scratch':>16}{'pretrained':>16}{'difference':>22}")
    for epochs in lengths:
        for name in SHOWN:
            scratch, started = (
                np.array([row[name] for row in rows if row["epochs"] == epochs and (row["start"] == start)])
                for start in ("scratch", "artifacts/models/pretrain")
            )
            gain = started - scratch
            summary.append({"epochs": epochs, "metric": name, "scratch": scratch.mean(), "pretrained": started.mean()})
            summary[-1] |= {"gain": gain.mean(), "least": gain.min(), "most": gain.max()}
            print(
                f"{epochs:>6}  {name:<24}{scratch.mean():>16.1f}{started.mean():>16.1f}"
                f"{gain.mean():>+10.1f} ({gain.min():+.1f} to {gain.max():+.1f})"
            )
    if arguments.json is not None:
        arguments.json.write_text(json.dumps({"runs": rows, "summary": summary}, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
