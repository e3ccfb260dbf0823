"""Evaluation of a trained model on a split: predictions, metrics, baselines, and the predictions from blank frames."""

import time
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clipbert.config.schema import EvaluateParams, FramesParams
from clipbert.console import console
from clipbert.data.manifest import read_texts, read_video_columns
from clipbert.distributed.context import DistributedContext, device_of_this_process
from clipbert.evaluation.conditions import ATTRIBUTE, conditions, items_digest
from clipbert.evaluation.frame_conditions import condition_scores
from clipbert.evaluation.gallery_setup import GalleryModel, set_up_gallery
from clipbert.evaluation.item_checks import check_items
from clipbert.evaluation.metrics.intervals import Interval, bootstrap
from clipbert.feature_cache.build import find_features
from clipbert.files.atomic import sha256_file
from clipbert.frame_cache import FrameCache
from clipbert.model import ClipBertProcessor, load
from clipbert.model.weights.init_from import digest
from clipbert.tasks import task_class
from clipbert.tasks.base import Task
from clipbert.tasks.batch import Predictions
from clipbert.tasks.examples import texts_with_frames
from clipbert.tasks.gallery_scores import own_videos
from clipbert.tasks.predict import encode_videos, predict
from clipbert.training.precision import Precision

RERANK_CHOICE = "rerank_choice"  # of the table of predictions (DataFrame.attrs)


@dataclass(frozen=True)
class Evaluation:
    """The result of an evaluation.

    Attributes:
        task: its name.
        metrics: of the model, of the baselines, and of the model on blank frames, the headlines first. The ends of
            the 95 % interval of a headline are in `METRIC_ci_low` and `METRIC_ci_high`.
        items: one row per test item with its score and the baselines' scores; `attrs["evaluation"]` holds the
            conditions.
        blank_items: the predictions of the same items from black frames, which show what the texts alone give away.
        intervals: the 95 % confidence interval of each metric that has one (`metrics.intervals`).
        frames_per_clip: how many frames of a clip the model saw.
        ms_per_item: milliseconds per test item from cached frames to a prediction, of the batches of this evaluation;
            None where it continued a killed one, which had scored a part.
    """

    task: str
    metrics: dict[str, float]
    items: Predictions
    blank_items: Predictions
    intervals: dict[str, Interval] = field(default_factory=dict)
    frames_per_clip: int = 1
    ms_per_item: float | None = 0.0


def evaluate_model(
    model_dir: Path,
    task: Task,
    manifest_dir: Path,
    frames_dir: Path,
    evaluate: EvaluateParams,
    frames: FramesParams,
    split: str = "test",
    features_dir: Path | None = None,
    scores_dir: Path | None = None,
) -> Evaluation:
    """Evaluate a model folder on a split.

    Args:
        frames: the settings of the frame cache, which are recorded with the predictions.
        features_dir: the folder of feature caches; the one of the model's backbone is used if there is one.
        scores_dir: where retrieval keeps finished scores, with which a killed evaluation continues. The caller removes
            the folder once it has written the result.

    Raises:
        ClipBertError: no such model, no texts of the task in the split, a corrupt frame cache, or
            evaluate.rerank_top_k with a model that has no dual encoder.
    """
    found = evaluate_share(
        model_dir,
        task,
        manifest_dir,
        frames_dir,
        evaluate,
        frames,
        split,
        features_dir,
        scores_dir,
        DistributedContext(),
    )
    assert found is not None
    return found


def evaluate_share(
    model_dir: Path,
    task: Task,
    manifest_dir: Path,
    frames_dir: Path,
    evaluate: EvaluateParams,
    frames: FramesParams,
    split: str = "test",
    features_dir: Path | None = None,
    scores_dir: Path | None = None,
    context: DistributedContext | None = None,
) -> Evaluation | None:
    """Evaluate a model folder together with the other processes of `context`, which share the videos of a retrieval.

    Args:
        context: all of its processes must call this function; None: this process alone.

    Returns:
        the result in the first process, None in the others; other arguments and errors are those of `evaluate_model`.
    """
    context = context or DistributedContext()
    cache = FrameCache(frames_dir)
    texts = texts_with_frames(read_texts(manifest_dir), cache)
    examples, train = task.examples.read(texts, split), task.examples.read(texts, "train")
    device = device_of_this_process("evaluate.processes")
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
    videos = read_video_columns(manifest_dir, ["media", "sha256"]).to_pydict()
    checksums = dict(zip(videos["media"], videos["sha256"], strict=True))
    continued, choice = False, None
    precision, evaluator = Precision("fp32", "", device), task.evaluator.with_settings(evaluate)
    if evaluator.shares_videos:
        identity = None if scores_dir is None else _identity(model_dir, frames_dir, features=inputs is not cache)
        found = GalleryModel(model, processor, inputs, identity)
        read_validation = partial(task.examples.read, texts, "val")
        gallery = set_up_gallery(task, found, examples, read_validation, evaluate, checksums, scores_dir, context)
        evaluate, evaluator, precision, choice = gallery.evaluate, gallery.evaluator, gallery.precision, gallery.choice
        continued = gallery.continued
    batch, title = evaluate.batch_size, f"evaluate {task.name}"
    start = time.monotonic()
    with precision.autocast():
        encoded = encode_videos(
            model,
            processor,
            inputs,
            examples[own_videos(len(examples), context)],
            evaluate.clips,
            title=f"{title} (videos)",
        )
        items = predict(
            evaluator, model, processor, inputs, examples, evaluate.clips, batch, title=title, videos=encoded
        )
        if not context.first:
            return None
        ms_per_item = None if continued else 1000 * (time.monotonic() - start) / len(items)
        evaluator = task.evaluator.with_settings(evaluate)
        # All clips of a black video are the same clip: one is enough.
        title = f"{title} (blank frames)"
        blank = predict(evaluator, model, processor, cache, examples, 1, batch, blank=True, title=title)
        expected = evaluator.item_ids(examples)
        check_items(task.name, items, expected)
        check_items(task.name, blank, expected, "the predictions of blank frames")
        others: dict[str, NDArray[np.float64]] = {}
        if evaluator.frame_conditions:
            whole = encoded if context.world == 1 else None
            others = condition_scores(
                evaluator, model, processor, inputs, examples, whole, items, batch, evaluate.clips
            )
    metrics = evaluator.metrics(items) | evaluator.baselines(items, train)
    blank_metrics = evaluator.metrics(blank)
    metrics |= {
        name.replace("/", "/blank_frames_"): blank_metrics[name]
        for name in evaluator.blank_frame_metrics
        if name in blank_metrics
    }
    metrics |= evaluator.test_metrics(items, blank, train)
    metrics |= {f"{task.name}/{name}_{evaluator.score_metric}": _mean(scores) for name, scores in others.items()}
    items = items.assign(**{f"{name}_score": scores for name, scores in others.items()})
    intervals = bootstrap(evaluator.statistics(items))
    metrics = with_intervals(task.name, metrics, intervals)
    baselines = {"blank_frames": blank.set_index("item_id")["score"].reindex(items["item_id"]).to_numpy()}
    baselines |= evaluator.baseline_scores(items, train)
    items = items.assign(**{f"{name}_score": scores for name, scores in baselines.items()})
    recorded = conditions(task.name, task.params, evaluate, frames)
    items.attrs[ATTRIBUTE] = {**recorded, "test_items": items_digest(examples, checksums)}
    if choice is not None and choice.recalls:
        items.attrs[RERANK_CHOICE] = vars(choice)
    return Evaluation(task.name, metrics, items, blank, intervals, processor.frames_per_clip, ms_per_item)


def _identity(model_dir: Path, frames_dir: Path, features: bool) -> dict[str, Any]:
    """Return the digests of a model and of the frames or features that it reads."""
    return {"model": digest(model_dir), "frame cache": sha256_file(frames_dir / "index.arrow"), "features": features}


def _mean(scores: NDArray[np.float64]) -> float:
    """Return the mean in percent of the items that were measured."""
    return 100 * float(np.nanmean(scores))


def with_intervals(task: str, metrics: dict[str, float], intervals: dict[str, Interval]) -> dict[str, float]:
    """Return the metrics with the ends of the headlines' intervals, in the order of the report."""
    found: dict[str, float] = {}
    for shown in task_class(task).report.headlines:
        name = f"{task}/{shown.metric}"
        if name not in metrics:
            continue
        found[name] = metrics[name]
        if name in intervals:
            found |= {f"{name}_ci_low": intervals[name].low, f"{name}_ci_high": intervals[name].high}
        compared = [f"{task}/{metric}" for _, metric in shown.compared_with]
        found |= {name: metrics[name] for name in compared if name in metrics and name not in found}
    return found | {name: metrics[name] for name in sorted(metrics) if name not in found}
