"""A trained model over a split: its predictions, its metrics, and the same model shown blank frames."""

from dataclasses import dataclass
from pathlib import Path

import torch

from clipbert.config.schema import Params
from clipbert.console import console
from clipbert.data.manifest import read_texts, read_video_columns
from clipbert.evaluation.conditions import ATTRIBUTE, conditions, items_digest
from clipbert.frame_cache import FrameCache
from clipbert.model import ClipBertProcessor, load
from clipbert.tasks import make_task
from clipbert.tasks.base import Predictions, texts_with_frames
from clipbert.tasks.predict import predict


@dataclass(frozen=True)
class Evaluation:
    """What a model reached on a split."""

    task: str
    metrics: dict[str, float]
    items: Predictions  # item_id, score, chance, blank_frames_score, ...; attrs["evaluation"]: how they were made
    blank_items: Predictions  # the same items from black frames: what the text alone gives away


def evaluate_model(
    model_dir: Path, task_name: str, manifest_dir: Path, frames_dir: Path, params: Params, split: str = "test"
) -> Evaluation:
    """Evaluate a saved model on a split, beside chance, the trivial baseline and blank frames.

    Raises:
        ClipBertError: no such model, no texts of the task in the split, a corrupt frame cache, or
            evaluate.rerank_top_k with a model that has no towers.
    """
    task = make_task(task_name, params).measured(params.evaluate)
    texts = read_texts(manifest_dir)
    cache = FrameCache(frames_dir)
    texts = texts_with_frames(texts, cache)
    examples, train = task.examples(texts, split), task.examples(texts, "train")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = load(model_dir).to(device)
    processor = ClipBertProcessor.from_pretrained(model_dir)
    clips = params.evaluate.clips
    if clips != processor.clips:
        console.print(
            f"{task_name}: evaluated with evaluate.clips = {clips}; pipelines on {model_dir} use the {processor.clips} "
            "clips stored there. Train again to store another number.",
            markup=False,
        )
    batch = params.evaluate.batch_size
    title = f"evaluate {task_name}"
    items = predict(task, model, processor, cache, examples, clips, batch, title=title)
    # All clips of a black video are the same clip: one says it all.
    blank = predict(task, model, processor, cache, examples, 1, batch, blank=True, title=f"{title} (blank frames)")
    metrics = task.metrics(items) | task.baselines(items, train)
    seen_blank = task.metrics(blank)
    metrics |= {name.replace("/", "/blank_frames_"): seen_blank[name] for name in task.compared}
    baselines = {"blank_frames": blank.set_index("item_id")["score"].reindex(items["item_id"]).to_numpy()}
    baselines |= task.baseline_scores(items, train)
    items = items.assign(**{f"{name}_score": scores for name, scores in baselines.items()})
    videos = read_video_columns(manifest_dir, ["media", "sha256"]).to_pydict()
    checksums = dict(zip(videos["media"], videos["sha256"], strict=True))
    items.attrs[ATTRIBUTE] = {**conditions(task.name, params), "test_items": items_digest(examples, checksums)}
    return Evaluation(task.name, metrics, items, blank)
