"""Direction and order: open_qa with each `model.frame_fusion` on questions that one frame cannot answer.

Makes the sample set with 400 test videos and asks every question of direction and order that its scenes can answer,
then trains each fusion with the recipe `motion`: the same steps from a model of single frames, with a frozen backbone
and clips of 4 frames at 1 frame a second. Prints the accuracy on the test split, also with one frame and with shuffled
frames.

    python -m benchmarks.motion --start artifacts/models/open_qa --work motion --seeds 0 1 2 --json motion.json

With `--json` each training is written when it is done, and one that is already in the file is not repeated.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.intervals import interval
from clipbert.data.synthetic.sample_set import make_sample_data
from scripts.apply_recipe import apply_recipe

REPOSITORY = Path(__file__).parents[1]
FUSIONS = ("mean", "concat", "attention", "conv3d")
TEST = 400  # videos
KINDS = ("direction", "order")


def run(root: Path, *command: str) -> None:
    """Run a `clipbert` command; its output goes to `log.txt`.

    Raises:
        SystemExit: it failed.
    """
    with (root / "log.txt").open("a") as log:
        environment = {**os.environ, "OMP_WAIT_POLICY": "PASSIVE"}
        words = (sys.executable, "-m", "clipbert", *command)
        code = subprocess.call(words, cwd=root, env=environment, stdout=log, stderr=log)
    if code:
        raise SystemExit(f"clipbert {' '.join(command)} ended with {code}; see {root / 'log.txt'}")


def make_project(root: Path) -> None:
    """Make the project with its data, manifest and frames, unless it is there."""
    if (root / "artifacts" / "frames").is_dir():
        return
    root.mkdir(parents=True, exist_ok=True)
    for name in ("params.yaml", "dvc.yaml"):
        shutil.copy(REPOSITORY / name, root)
    shutil.copytree(REPOSITORY / "recipes", root / "recipes", dirs_exist_ok=True)
    apply_recipe(root, "motion")
    make_sample_data(root / "data", test=TEST, kinds=KINDS)
    for verb in ("ingest", "validate", "frames"):
        run(root, verb)


def measure(root: Path, start: Path, fusion: str, seed: int) -> dict[str, Any]:
    """Train and evaluate one model; return its metrics on the test split, in percent."""
    changes = (f"seed={seed}", f"model.init_from={start.resolve()}", f"model.frame_fusion={fusion}")
    settings = [word for change in changes for word in ("--set", change)]
    shutil.rmtree(root / "artifacts" / "checkpoints", ignore_errors=True)
    for verb in ("train", "evaluate"):
        run(root, verb, "open_qa", *settings)
    found = json.loads((root / "artifacts" / "metrics" / "open_qa.json").read_text())
    metrics = {name.removeprefix("open_qa/"): value for name, value in found.items()}
    return {"fusion": fusion, "seed": seed, **metrics}


def print_table(rows: list[dict[str, Any]]) -> None:
    """Print the mean over the seeds of each fusion."""
    names = {"accuracy": "both", "accuracy_direction": "direction", "accuracy_order": "order"}
    names |= {"single_frame_accuracy": "one frame", "shuffled_frames_accuracy": "shuffled"}
    table = Table("fusion", "seeds", *names.values())
    for fusion in FUSIONS:
        own = [row for row in rows if row["fusion"] == fusion]
        if not own:
            continue
        mean = {name: sum(row[name] for row in own) / len(own) for name in names}
        low, high = (100 * end for end in interval(mean["accuracy"] / 100, int(own[0]["questions"])))
        others = (f"{mean[name]:.1f}" for name in names if name != "accuracy")
        cells = [f"{mean['accuracy']:.1f} ({low:.1f} to {high:.1f})", *others]
        table.add_row(fusion, " ".join(str(row["seed"]) for row in own), *cells)
    Console().print(table)


def main() -> None:
    """Train what is not yet in the JSON file, and print one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--start", type=Path, required=True, help="model folder of open_qa trained on single frames")
    parser.add_argument("--work", type=Path, default=Path("motion"), help="project folder, made if missing")
    parser.add_argument("--fusions", nargs="+", choices=FUSIONS, default=list(FUSIONS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    make_project(options.work)
    rows: list[dict[str, Any]] = []
    if options.json and options.json.is_file():
        rows = json.loads(options.json.read_text())
    for seed in options.seeds:
        for fusion in options.fusions:
            if not any((row["fusion"], row["seed"]) == (fusion, seed) for row in rows):
                rows.append(measure(options.work, options.start, fusion, seed))
                if options.json:
                    options.json.write_text(json.dumps(rows, indent=2) + "\n")
    print_table(rows)


if __name__ == "__main__":
    main()
