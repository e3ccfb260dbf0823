"""Settings of a retrieval evaluation that depend on the machine and the gallery, and the scores of a killed one."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

import clipbert
from clipbert.config.schema import EvaluateParams
from clipbert.console import console
from clipbert.distributed.context import DistributedContext
from clipbert.errors import ClipBertError
from clipbert.evaluation.conditions import SCORING_VERSION, items_digest
from clipbert.evaluation.rerank_depth import RerankChoice, choose_depth, exact_reason, validation_gallery
from clipbert.frame_cache import FrameCache
from clipbert.tasks.base import Evaluator, Task
from clipbert.tasks.batch import Example
from clipbert.tasks.gallery_scores import (
    BATCHES_PER_BLOCK,
    MAX_BLOCK_SCORES,
    MAX_BLOCK_TEXTS,
    GalleryScores,
    own_videos,
)
from clipbert.tasks.predict import encode_videos
from clipbert.tasks.score_store import ScoreStore
from clipbert.tasks.scoring import ProcessorTokens
from clipbert.training.precision import Precision, inference_precision

TEST, VALIDATION = "test", "validation"  # folders of scores


@dataclass(frozen=True)
class GallerySetup:
    """How a gallery is ranked.

    Attributes:
        evaluate: section evaluate with the precision and the number of reranked videos in the place of "auto".
        evaluator: ranks the gallery; it keeps finished scores and shares the videos with other processes.
        precision: of the model.
        choice: the number of reranked videos and its reason, where `evaluate.rerank_top_k` was "auto".
        continued: whether a killed evaluation left scores that are used.
    """

    evaluate: EvaluateParams
    evaluator: Evaluator
    precision: Precision
    choice: RerankChoice | None
    continued: bool


@dataclass(frozen=True)
class GalleryModel:
    """A retrieval model with what it reads.

    Attributes:
        inputs: the frame cache, or the feature cache.
        identity: the digests of the model and of the inputs; None: no scores are kept.
    """

    model: Any
    processor: Any
    inputs: FrameCache
    identity: Mapping[str, Any] | None


def set_up_gallery(
    task: Task,
    found: GalleryModel,
    examples: list[Example],
    validation: Callable[[], list[Example]],
    evaluate: EvaluateParams,
    checksums: Mapping[str, str],
    scores_dir: Path | None,
    context: DistributedContext,
) -> GallerySetup:
    """Choose the precision and the number of reranked videos, and open the scores of a killed evaluation.

    Args:
        examples: the gallery.
        validation: reads the examples of the validation split.
        checksums: media to the SHA-256 of its bytes.
        scores_dir: the folder of scores; None: none are kept.
        context: the processes of the evaluation, which all call this function.
    """
    device = next(found.model.parameters()).device
    precision = inference_precision(evaluate.precision, device, found.model.config)
    evaluate = evaluate.model_copy(update={"precision": precision.name})

    def store(name: str, of: list[Example]) -> ScoreStore | None:
        if scores_dir is None or found.identity is None or not context.first:
            return None
        identity = {
            **found.identity,
            **evaluate.model_dump(exclude={"processes"}),
            "items": items_digest(of, checksums),
            "device": device.type,
            "torch": torch.__version__,
            "clipbert": [clipbert.__version__, SCORING_VERSION],
            "blocks": [MAX_BLOCK_SCORES, MAX_BLOCK_TEXTS, BATCHES_PER_BLOCK],
        }
        opened = ScoreStore(scores_dir / name, json.loads(json.dumps(identity)))
        if opened.finished():
            console.print(f"{task.name}: continues with {len(opened.finished())} blocks of scores in {opened.folder}")
        return opened

    choice = None
    if evaluate.rerank_top_k == "auto":
        with precision.autocast():
            choice = _choose(found, examples, validation, evaluate, store, context)
        evaluate = evaluate.model_copy(update={"rerank_top_k": choice.top_k})
        if choice.recalls:
            console.print(f"{task.name}: {choice.reason} (evaluate.rerank_top_k: auto).")
    kept = store(TEST, examples)
    evaluator = task.evaluator.with_settings(evaluate).with_execution(context, kept)
    return GallerySetup(evaluate, evaluator, precision, choice, kept is not None and bool(kept.finished()))


def _choose(
    found: GalleryModel,
    examples: list[Example],
    validation: Callable[[], list[Example]],
    evaluate: EvaluateParams,
    store: Callable[[str, list[Example]], ScoreStore | None],
    context: DistributedContext,
) -> RerankChoice:
    """Return the number of videos to rerank in the gallery of `examples`; the first process decides for all."""
    if reason := exact_reason(len(examples), found.model):
        return RerankChoice(None, reason, {})
    try:
        some = validation_gallery(validation())
    except ClipBertError:
        return RerankChoice(None, "the validation split is missing: every pair is scored", {})
    device = next(found.model.parameters()).device
    owners = np.repeat(np.arange(len(some)), [len(example.texts) for example in some])
    title = "choose evaluate.rerank_top_k"
    with torch.inference_mode():
        own = some[own_videos(len(some), context)]
        scores = GalleryScores(
            model=found.model,
            videos=encode_videos(
                found.model, found.processor, found.inputs, own, evaluate.clips, title=f"{title} (videos)"
            ),
            gallery=[example.key for example in some],
            texts=[text for example in some for text in example.texts],
            owners=owners,
            tokenize=ProcessorTokens(found.processor, device),
            batch_size=evaluate.batch_size,
            context=context,
            store=store(VALIDATION, some),
        )
        blocks = scores.blocks_with_progress(title)
        choice = choose_depth(blocks, owners, len(some), len(examples)) if context.first else None
        for _ in blocks:
            pass  # other processes compute their share
    chosen: RerankChoice = context.gather(choice)[0]
    return chosen
