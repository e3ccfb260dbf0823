"""Predictions of small evaluations to compare, as sources and as files of a project."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from clipbert.config.schema import Params
from clipbert.evaluation.comparison.source import Source
from clipbert.evaluation.item_checks import check_predictions
from clipbert.evaluation.predictions_file import write_predictions
from clipbert.tasks import make_task

CONDITIONS = {"clips": 2, "scoring": 2, "test_items": "d" * 64}


def qa_items(right: Sequence[float], per_video: int = 1, media: str = "videos/{:03d}.mp4") -> pd.DataFrame:
    """Return predictions of open questions that are right (1) or wrong (0)."""
    count = len(right)
    return pd.DataFrame(
        {
            "item_id": [f"q{i:03d}" for i in range(count)],
            "answer_type": "color",
            "question": [f"what <is> {i}?" for i in range(count)],
            "answer": "red",
            "predicted": ["red" if score else "blue" for score in right],
            "confidence": 0.5,
            "in_vocabulary": True,
            "answer_rank": [1.0 if score else 9.0 for score in right],
            "media": [media.format(i // per_video) for i in range(count)],
            "score": [float(score) for score in right],
            "chance": 0.1,
        }
    )


def ranked_items(ranks: Sequence[float], media: str = "videos/{:03d}.mp4") -> pd.DataFrame:
    """Return predictions of retrieval with these ranks."""
    names = [media.format(i) for i in range(len(ranks))]
    return pd.DataFrame(
        {
            "item_id": [f"c{i:03d}" for i in range(len(ranks))],
            "score": [float(rank == 1) for rank in ranks],
            "chance": 1 / len(ranks),
            "rank": [float(rank) for rank in ranks],
            "gallery": len(ranks),
            "text": [f"a text {i}" for i in range(len(ranks))],
            "media": names,
            "top_media": [[name] for name in names],
            "top_scores": [[1.0]] * len(ranks),
        }
    )


def make_source(
    name: str, items: pd.DataFrame, task: str = "open_qa", conditions: Mapping[str, Any] | None = None, **fields: Any
) -> Source:
    """Return a source with these predictions."""
    checked = check_predictions(items, name, task)
    found = CONDITIONS | dict(conditions or {})
    return Source(name, "MLflow run", f"id of {name}", task, checked, found, **fields)


def write_evaluation(root: Path, items: pd.DataFrame, task: str = "open_qa", **described: Any) -> dict[str, float]:
    """Write predictions, metrics and the description of a run into a project, as the pipeline does."""
    items = items.assign()
    items.attrs.setdefault("evaluation", CONDITIONS)
    metrics = make_task(task, Params().tasks).evaluator.metrics(items)
    artifacts = root / "artifacts"
    for folder in ("predictions", "metrics", "runs"):
        (artifacts / folder).mkdir(parents=True, exist_ok=True)
    write_predictions(artifacts / "predictions" / f"{task}.parquet", items, metrics)
    (artifacts / "metrics" / f"{task}.json").write_text(json.dumps(metrics))
    run = {"task": task, "run_id": "0" * 32, "params": {"seed": "0"}, "tags": {}} | described
    (artifacts / "runs" / f"{task}.json").write_text(json.dumps(run))
    return metrics
