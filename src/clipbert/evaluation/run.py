"""Evaluation of a trained model on a split: predictions, metrics, baselines, and the predictions from blank frames."""

from dataclasses import dataclass
from pathlib import Path

import torch

from clipbert.config.schema import EvaluateParams, FramesParams
from clipbert.console import console
from clipbert.data.manifest import read_texts, read_video_columns
from clipbert.evaluation.conditions import ATTRIBUTE, conditions, items_digest
from clipbert.feature_cache.build import find_features
from clipbert.frame_cache import FrameCache
from clipbert.model import ClipBertProcessor, load
from clipbert.tasks.base import Task
from clipbert.tasks.batch import Predictions
from clipbert.tasks.examples import texts_with_frames
from clipbert.tasks.predict import predict


@dataclass(frozen=True)
class Evaluation:
    """The result of an evaluation.

    Attributes:
        task: its name.
        metrics: of the model, of the baselines, and of the model on blank frames.
        items: one row per test item with its score and the baselines' scores; `attrs["evaluation"]` holds the
            conditions.
        blank_items: the predictions of the same items from black frames, which show what the texts alone give away.
    """

    task: str
    metrics: dict[str, float]
    items: Predictions
    blank_items: Predictions


def evaluate_model(
    model_dir: Path,
    task: Task,
    manifest_dir: Path,
    frames_dir: Path,
    evaluate: EvaluateParams,
    frames: FramesParams,
    split: str = "test",
    features_dir: Path | None = None,
) -> Evaluation:
    """Evaluate a model folder on a split.

    Args:
        frames: the settings of the frame cache, which are recorded with the predictions.
        features_dir: the folder of feature caches; the one of the model's backbone is used if there is one.

    Raises:
        ClipBertError: no such model, no texts of the task in the split, a corrupt frame cache, or
            evaluate.rerank_top_k with a model that has no dual encoder.
    """
    evaluator = task.evaluator.with_settings(evaluate)
    cache = FrameCache(frames_dir)
    texts = texts_with_frames(read_texts(manifest_dir), cache)
    examples, train = task.examples.read(texts, split), task.examples.read(texts, "train")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = load(model_dir).to(device)
    processor = ClipBertProcessor.from_pretrained(model_dir)
    inputs = cache
    if features_dir is not None:
        inputs = find_features(features_dir, model, processor, cache) or cache
    if evaluate.clips != processor.clips:
        console.print(
            f"{task.name}: evaluated with evaluate.clips = {evaluate.clips}; pipelines on {model_dir} use the "
            f"{processor.clips} clips stored there. Train again to store another number.",
        )
    batch, title = evaluate.batch_size, f"evaluate {task.name}"
    items = predict(evaluator, model, processor, inputs, examples, evaluate.clips, batch, title=title)
    # All clips of a black video are the same clip: one is enough.
    title = f"{title} (blank frames)"
    blank = predict(evaluator, model, processor, cache, examples, 1, batch, blank=True, title=title)
    metrics = evaluator.metrics(items) | evaluator.baselines(items, train)
    blank_metrics = evaluator.metrics(blank)
    metrics |= {name.replace("/", "/blank_frames_"): blank_metrics[name] for name in evaluator.blank_frame_metrics}
    baselines = {"blank_frames": blank.set_index("item_id")["score"].reindex(items["item_id"]).to_numpy()}
    baselines |= evaluator.baseline_scores(items, train)
    items = items.assign(**{f"{name}_score": scores for name, scores in baselines.items()})
    videos = read_video_columns(manifest_dir, ["media", "sha256"]).to_pydict()
    checksums = dict(zip(videos["media"], videos["sha256"], strict=True))
    recorded = conditions(task.name, task.params, evaluate, frames)
    items.attrs[ATTRIBUTE] = {**recorded, "test_items": items_digest(examples, checksums)}
    return Evaluation(task.name, metrics, items, blank)
