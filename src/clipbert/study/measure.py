"""Evaluation of one trained model on the validation split with several numbers of clips and score aggregations."""

import time
from collections.abc import Sequence
from pathlib import Path

from clipbert.config.schema import EvaluateParams
from clipbert.data.manifest import read_texts
from clipbert.distributed.context import device_of_this_process
from clipbert.evaluation.item_checks import check_items
from clipbert.evaluation.predictions_file import write_predictions
from clipbert.feature_cache.build import find_features
from clipbert.files.atomic import atomic_directory, write_json
from clipbert.frame_cache import FrameCache
from clipbert.model import ClipBertProcessor, load
from clipbert.project import Project
from clipbert.study.records import EVALUATIONS
from clipbert.tasks.base import Task
from clipbert.tasks.examples import texts_with_frames
from clipbert.tasks.predict import encode_videos, predict


def measure_validation(
    project: Project, task: Task, evaluate: EvaluateParams, clips: Sequence[int], aggregations: Sequence[str], out: Path
) -> None:
    """Evaluate the task's model on the validation split and write the predictions and `evaluations.json` to `out`.

    The videos are encoded once for each number of clips. The weights stay those of the training: another aggregation
    changes only how the scores of the clips are combined.

    Args:
        clips: numbers of clips of a video.
        aggregations: "lse", "mean" or "max"; the model's own is always measured.

    Raises:
        ClipBertError: no such model, no validation texts, a corrupt frame cache, or a score that is not a number.
    """
    cache = FrameCache(project.frames)
    examples = task.examples.read(texts_with_frames(read_texts(project.manifest), cache), "val")
    model = load(project.model(task.name)).to(device_of_this_process())
    processor = ClipBertProcessor.from_pretrained(project.model(task.name))
    inputs = find_features(project.features, model, processor, cache) or cache
    evaluator = task.evaluator.with_settings(evaluate)
    own, found = model.config.score_aggregation, []
    with atomic_directory(out) as folder:
        for count in clips:
            start = time.monotonic()
            videos = encode_videos(
                model,
                processor,
                inputs,
                examples,
                count,
                title=f"validate {task.name} ({count} {'clip' if count == 1 else 'clips'})",
            )
            encoding_s = time.monotonic() - start
            # one clip has nothing to aggregate
            for aggregation in dict.fromkeys([own, *aggregations] if count > 1 else [own]):
                model.config.score_aggregation = aggregation
                start = time.monotonic()
                items = predict(
                    evaluator, model, processor, inputs, examples, count, evaluate.batch_size, videos=videos
                )
                seconds = encoding_s + time.monotonic() - start
                check_items(task.name, items, evaluator.item_ids(examples))
                metrics = {name: round(value, 4) for name, value in evaluator.metrics(items).items()}
                file = f"clips{count}-{aggregation}.parquet"
                write_predictions(folder / file, items, metrics)
                found.append(
                    {
                        "clips": count,
                        "aggregation": aggregation,
                        "own": aggregation == own,
                        "training_clips": model.config.clips,
                        "ms_per_item": round(1000 * seconds / len(items), 3),
                        "file": f"{out.name}/{file}",
                        "metrics": metrics,
                    }
                )
        write_json(folder / EVALUATIONS, {"evaluations": found}, sort_keys=False)
