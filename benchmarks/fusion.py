"""Frame fusion: open_qa with the frames of a clip averaged, concatenated or attended.

Trains open_qa on the sample set (or any project) from scratch with each `model.frame_fusion`, the same steps and seeds,
and prints the test accuracy on questions that need the order of frames and on all others.

    python benchmarks/fusion.py --project . --epochs 18 --seeds 0 1 2 --json fusion.json

The project's manifest and frame cache must be there (`clipbert ingest`, `clipbert frames`). With `--json` each training
is written when it is done, and one that is already in the file is not repeated.
"""

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from clipbert.config.load import load_params
from clipbert.config.schema import Params
from clipbert.data.manifest import read_texts
from clipbert.frame_cache import FrameCache
from clipbert.tasks import make_task
from clipbert.tasks.examples import texts_with_frames
from clipbert.tasks.predict import predict
from clipbert.training.checkpoint import Checkpoints
from clipbert.training.setup import build_model
from clipbert.training.tracker import NoOpTracker
from clipbert.training.trainer import Trainer

FUSIONS = ("mean", "concat", "attention")
TEMPORAL = ("direction", "order")  # answer types that need the order of the frames


def accuracy_of(fusion: str, seed: int, project: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Train and test one model; accuracy in percent on each answer type and on all questions."""
    overrides = [
        f"seed={seed}",
        f"model.frame_fusion={fusion}",
        f"model.frames_per_clip={options.frames}",
        f"tasks.open_qa.epochs={options.epochs}",
        *options.set,
    ]
    params: Params = load_params(project / "params.yaml", overrides)
    task = make_task("open_qa", params.tasks)
    cache = FrameCache(project / "artifacts" / "frames")
    texts = texts_with_frames(read_texts(project / "artifacts" / "manifest"), cache)
    examples, val, test = (task.examples.read(texts, split) for split in ("train", "val", "test"))
    torch.manual_seed(seed)
    model, processor = build_model(task, examples, params.model, params.frames, params.evaluate.clips)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    with tempfile.TemporaryDirectory() as folder:
        checkpoints, batch_size = Checkpoints(Path(folder), {}), params.evaluate.batch_size
        trainer = Trainer(
            task, model, processor, cache, examples, val, params.train, seed, batch_size, checkpoints, device
        )
        began = time.perf_counter()
        trainer.resume()
        state = trainer.train(NoOpTracker())
        seconds = time.perf_counter() - began
    model.eval()
    items = predict(task.evaluator, model, processor, cache, test, params.evaluate.clips, params.evaluate.batch_size)
    kinds = {str(kind): 100 * float(rows["score"].mean()) for kind, rows in items.groupby("answer_type")}
    temporal = items["answer_type"].isin(TEMPORAL)
    return {
        "fusion": fusion,
        "seed": seed,
        "epochs": options.epochs,
        "frames": options.frames,
        "set": options.set,
        "steps": state.step,
        "seconds": round(seconds, 1),
        "all": 100 * float(items["score"].mean()),
        "temporal": 100 * float(items["score"][temporal].mean()),
        "others": 100 * float(items["score"][~temporal].mean()),
        "kinds": kinds,
        "questions": {str(kind): len(rows) for kind, rows in items.groupby("answer_type")},
    }


def spread(values: list[float]) -> str:
    """Mean and, of several, the least and the most."""
    middle = f"{statistics.mean(values):.1f}"
    return middle if len(values) == 1 else f"{middle} ({min(values):.1f}-{max(values):.1f})"


def table(rows: list[dict[str, Any]]) -> list[list[str]]:
    """One line a fusion: seeds, accuracies with their spread, seconds a training."""
    lines = [["fusion", "seeds", *TEMPORAL, "both", "all others", "all", "steps", "seconds"]]
    for fusion in FUSIONS:
        some = [row for row in rows if row["fusion"] == fusion]
        if some:
            columns = [[row["kinds"].get(kind, float("nan")) for row in some] for kind in TEMPORAL]
            columns += [[row[name] for row in some] for name in ("temporal", "others", "all")]
            seconds = statistics.median(row["seconds"] for row in some)
            lines.append([fusion, str(len(some)), *map(spread, columns), str(some[0]["steps"]), f"{seconds:.0f}"])
    return lines


def main() -> None:
    """Train what is not yet in the JSON file, and print one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--project", type=Path, default=Path())
    parser.add_argument("--fusions", nargs="+", choices=FUSIONS, default=list(FUSIONS))
    parser.add_argument("--epochs", type=int, default=18)
    parser.add_argument("--frames", type=int, default=4, help="frames of a clip")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="other parameters than the project's")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []
    if options.json and options.json.is_file():
        rows = json.loads(options.json.read_text())
        same = ("epochs", "frames", "set")
        if any(row[name] != getattr(options, name) for row in rows for name in same):
            parser.error(f"{options.json} holds trainings of other epochs, frames or parameters: name another file")
    for seed in options.seeds:
        for fusion in options.fusions:
            if not any((row["fusion"], row["seed"]) == (fusion, seed) for row in rows):
                rows.append(accuracy_of(fusion, seed, options.project, options))
                if options.json:
                    options.json.write_text(json.dumps(rows, indent=2) + "\n")
    counts = rows[0]["questions"]
    print(
        f"test questions: {sum(counts.values())}, of them " + ", ".join(f"{counts[kind]} {kind}" for kind in TEMPORAL)
    )
    for line in table(rows):
        print("".join(f"{cell:>20}" if place else f"{cell:<12}" for place, cell in enumerate(line)))


if __name__ == "__main__":
    main()
