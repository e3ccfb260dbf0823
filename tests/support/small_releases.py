"""Models small enough to register in a second, and predictions for them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from mlflow.models import Model

from clipbert.config.schema import Params
from clipbert.evaluation.conditions import conditions
from clipbert.evaluation.predictions_file import write_predictions
from clipbert.model import (
    ClipBertConfig,
    ClipBertForCaptioning,
    ClipBertForMultipleChoice,
    ClipBertForOpenQA,
    ClipBertForPreTraining,
    ClipBertForRetrieval,
    ClipBertProcessor,
)
from clipbert.release.registry import Release, register, save_mlflow_model
from clipbert.release.served_settings import served_settings

TEXTS = ["a red square moves left", "a blue circle moves right", "what color is it?", "how many shapes appear?"]
SMALL = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16, "image_size": 32}
ITEMS = 60
CLASSES = {
    "retrieval": ClipBertForRetrieval,
    "open_qa": ClipBertForOpenQA,
    "multiple_choice": ClipBertForMultipleChoice,
    "image_qa": ClipBertForOpenQA,
    "captioning": ClipBertForCaptioning,
    "pretrain": ClipBertForPreTraining,
}


def save_model(folder: Path, task: str, seed: int) -> Path:
    """Save a model with random weights in `folder`; the same for the same task and seed."""
    tokenizer = ClipBertProcessor.train_tokenizer(TEXTS, 200, min_frequency=1)
    answer_loss = "bce" if task == "image_qa" else "ce"
    answers = ["red", "blue", "two"]
    config = ClipBertConfig.tiny(vocab_size=len(tokenizer), answers=answers, answer_loss=answer_loss, **SMALL)
    torch.manual_seed(seed)
    CLASSES[task](config).save_pretrained(folder)
    ClipBertProcessor.for_config(config, tokenizer, clips=Params().evaluate.clips).save_pretrained(folder)
    return folder


def scored_items(correct: int, items: int = ITEMS, offset: int = 0) -> pd.DataFrame:
    """Test items numbered from `offset`, of which a fixed random part is right; chance is the best trivial baseline."""
    score = np.zeros(items)
    score[np.random.default_rng(0).permutation(items)[:correct]] = 1.0
    names = [f"t{number:04d}" for number in range(offset, offset + items)]
    columns = {"item_id": names, "score": score, "chance": 0.1, "text": "a red square"}
    return pd.DataFrame(columns).assign(
        blank_frames_score=0.05, majority_score=0.05, constant_score=0.05, frequent_option_score=0.05
    )


def register_sections(task: str, params: Params) -> dict[str, Any]:
    """Return the arguments of `register` that come from params.yaml."""
    return {
        "release_name": params.release.name,
        "evaluate": params.evaluate,
        "frames": params.frames,
        "task_params": params.tasks.section(task),
    }


def save_served_model(folder: Path, task: str, model_dir: Path, params: Params) -> None:
    """Write the MLflow model of a model folder without registering it."""
    settings = served_settings(task, model_dir, params.evaluate, params.frames, params.tasks.section(task))
    save_mlflow_model(folder, model_dir, settings, Model())


def releaser(root: Path, make_model: Callable[..., Path]) -> Callable[..., Release]:
    """Return a function that registers the model of a seed with predictions; see the fixtures of conftest.py."""

    def do(seed: int, items: pd.DataFrame, task: str = "retrieval", params: Params | None = None) -> Release:
        run_json, metrics_json = root / f"run-{seed}.json", root / f"metrics-{seed}.json"
        described = {"task": task, "run_id": f"{seed:032x}", "tags": {"clipbert.git_commit": "c0ffee"}}
        run_json.write_text(json.dumps(described))
        metrics = {f"{task}/r1": 100 * float(items["score"].mean())}
        metrics_json.write_text(json.dumps(metrics))
        table = root / f"predictions-{seed}.parquet"
        if "evaluation" not in items.attrs:
            items = items.assign()
            chosen = params or Params()
            recorded = conditions(task, chosen.tasks.section(task), chosen.evaluate, chosen.frames)
            items.attrs["evaluation"] = {**recorded, "test_items": "of the test"}
        write_predictions(table, items, metrics)
        out = root / "artifacts" / "releases" / f"{task}.json"
        model_dir = make_model(task, seed)
        sections = register_sections(task, params or Params())
        return register(root, task, model_dir, run_json, metrics_json, table, out, **sections)

    return do
