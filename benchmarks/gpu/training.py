"""Trainings on a GPU as `clipbert train retrieval` makes them, without an experiment tracker.

    python -m benchmarks.gpu.training small --json small.json   # the recipe small, then end to end
    python -m benchmarks.gpu.training base --json base.json     # ResNet-50 and BERT-base, from random weights

`small` trains the recipe from a feature cache, then the same weights end to end with the backbone. Without pretrained
parts (drawn pictures) its figures of search mean nothing, its speed does. `base` trains the cross-encoder and the
dual encoder on 2 clips of 2 frames of 224 pixels.
"""

import argparse
import contextlib
import copy
import json
import os
import statistics
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import yaml

from benchmarks.gpu.project import PARTS, open_project
from clipbert.config.schema import Params
from clipbert.data.manifest import read_texts
from clipbert.distributed.context import DistributedContext
from clipbert.frame_cache import FrameCache
from clipbert.project import Project
from clipbert.stages import make_trainer
from clipbert.tasks.predict import predict
from clipbert.training.tracker import NoOpTracker
from clipbert.training.trainer import Trainer

REPOSITORY = Path(__file__).parents[2]
MEASURES = ("r1", "r5", "r10", "median_rank", "chance_r1")
RATES = ("clips_per_s", "tokens_per_s", "data_wait", "tflops", "mfu")
TINY = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 64}
END_TO_END = {"freeze_vision": False, "feature_cache": False, "vision_lr": 0.0001, "lr": 0.00005, "batch_size": 64}


def merged(values: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """Return nested `values` with `changes`."""
    result = copy.deepcopy(values)
    for name, value in changes.items():
        nested = isinstance(value, dict) and isinstance(result.get(name), dict) and name != "lr_multipliers"
        result[name] = merged(result[name], value) if nested else value
    return result


def workers() -> int:
    """Return the loader processes of a training: the cores but two, 14 at most."""
    return max(0, min(14, len(os.sched_getaffinity(0)) - 2))


def small_values(project: Project, tiny: bool) -> dict[str, Any]:
    """Return the parameters of the recipe `small`; without pretrained parts the preset's with random weights."""
    values = yaml.safe_load((REPOSITORY / "recipes" / "small.yaml").read_text(encoding="utf-8"))
    cache = FrameCache(project.frames).settings
    values = merged(values, {"frames": {name: cache[name] for name in ("fps", "size", "max_frames", "sampling")}})
    if not (project.root / PARTS["text"]).is_dir():
        values = merged(values, {"model": {"vision": None, "text": None}})
    if tiny:
        values = merged(
            values, {"model": TINY, "train": {"batch_size": 8, "budget": "3 steps"}, "evaluate": {"clips": 2}}
        )
    return values


def base_values(project: Project, tiny: bool, budget: str) -> dict[str, Any]:
    """Return the parameters of a training of the paper's model on the frames of the project."""
    cache = FrameCache(project.frames).settings
    size = min(224, cache["size"])
    values = {
        "frames": {name: cache[name] for name in ("fps", "size", "max_frames", "sampling")},
        "model": {"preset": "base", "image_size": size, "clips": 2, "frames_per_clip": 2},
        "train": {"batch_size": 32, "lr": 0.00005, "vision_lr": 0.00005, "num_workers": workers(), "budget": budget},
        "tasks": {"retrieval": {"negatives": 2, "contrastive_weight": 1.0}},
        "evaluate": {"batch_size": 512},
    }
    if tiny:
        values = merged(values, {"model": TINY, "train": {"batch_size": 4, "budget": "2 steps", "num_workers": 0}})
    return values


def read_rates(trainer: Trainer) -> dict[str, float]:
    """Return the medians of the logged rates, without the first row, in which shapes are new."""
    rows = trainer.state.history[1:] or trainer.state.history
    found = {name: [row[name] for row in rows if name in row] for name in RATES}
    rates = {name: round(statistics.median(values), 4) for name, values in found.items() if values}
    losses = [row["loss"] for row in trainer.state.history]
    return rates | {"first_loss": round(losses[0], 4), "last_loss": round(losses[-1], 4)} if losses else rates


def search(trainer: Trainer, project: Project, params: Params) -> dict[str, float]:
    """Return the measures of the validation split: a kit that runs often must not look at the test split."""
    task = trainer.task
    examples = task.examples.read(read_texts(project.manifest), "val")
    # one caption of each video: the others would cost minutes on the cross-encoder
    examples = [replace(e, ids=e.ids[:1], texts=e.texts[:1], answers=e.answers[:1]) for e in examples]
    evaluator = task.evaluator.with_settings(params.evaluate)
    trainer.model.eval()
    with trainer.step.precision.autocast():
        clips, batch = params.evaluate.clips, params.evaluate.batch_size
        items = predict(evaluator, trainer.model, trainer.processor, trainer.inputs, examples, clips, batch)
    metrics = evaluator.metrics(items) | evaluator.baselines(items, [])
    return {name: round(metrics[f"retrieval/{name}"], 2) for name in MEASURES}


def train(
    project: Project, values: dict[str, Any], weights: dict[str, Any] | None = None
) -> tuple[Trainer, dict[str, Any]]:
    """Train retrieval and return the training with its row: seconds, steps, rates, memory, and the validation split.

    Args:
        weights: state of the model to start from; None: that of the parameters.
    """
    params, device = Params.model_validate(values), torch.device("cuda" if torch.cuda.is_available() else "cpu")
    started = time.perf_counter()
    trainer = make_trainer(project, "retrieval", params, device, DistributedContext())
    prepared = time.perf_counter() - started
    if weights is not None:
        trainer.model.load_state_dict(weights)
    trainer.checkpoints.clear()
    trainer.resume()
    state = trainer.train(NoOpTracker())
    trainer.checkpoints.clear()
    row: dict[str, Any] = {"prepare_s": round(prepared, 2), "train_s": round(state.seconds, 2), "steps": state.step}
    row |= read_rates(trainer) | {"peak_memory_gb": round(trainer.step.monitor.peak_memory_gb(), 2)}
    row |= {"precision": trainer.step.precision.name, "microbatches": trainer.step.microbatches}
    if trainer.features is not None:
        row["frames"] = sum(trainer.features.num_frames(media) for media in trainer.features)
    started = time.perf_counter()
    row["val"] = search(trainer, project, params)
    row["val_s"] = round(time.perf_counter() - started, 2)
    return trainer, row


def main() -> None:
    """Train and write the rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["small", "base"])
    parser.add_argument("--work", type=Path, default=Path("artifacts/gpu"), help="the folder of the kit")
    parser.add_argument("--budget", default="25 s", help="of base and of the training end to end")
    parser.add_argument("--tiny", action="store_true", help="a check of this program without a GPU")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    work, out = options.work.resolve(), options.json and options.json.resolve()
    project, data = open_project(work, options.tiny)
    rows: dict[str, Any] = {}
    with contextlib.chdir(project.root):
        if options.what == "small":
            values = small_values(project, options.tiny)
            trainer, rows["small"] = train(project, values)
            end_to_end = {**END_TO_END, "num_workers": workers(), "budget": options.budget}
            if options.tiny:
                end_to_end |= {"batch_size": 4, "num_workers": 0, "budget": "2 steps"}
            values = merged(values, {"train": end_to_end})
            rows["small end to end"] = train(project, values, trainer.model.state_dict())[1]
        else:
            rows["base"] = train(project, base_values(project, options.tiny, options.budget))[1]
    print(json.dumps(rows, indent=2))
    if out:
        out.write_text(json.dumps({"data": data, "rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
