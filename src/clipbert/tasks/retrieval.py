"""Text-to-video retrieval (paper, section 3.3).

The cross-encoder is trained to tell matched from unmatched pairs. The dual encoder, trained with a contrastive loss,
adds its similarity to the score, finds hard negatives, and can rank a gallery before the cross-encoder reranks it.
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor

from clipbert.config.schema import EvaluateParams
from clipbert.config.tasks import RetrievalParams
from clipbert.distributed.collectives import RankRows, scale_loss_for_ddp
from clipbert.errors import ClipBertError
from clipbert.model import ClipBertForRetrieval
from clipbert.model.weights.card import CardText
from clipbert.tasks import register_task
from clipbert.tasks.base import Evaluator, Objective, Task
from clipbert.tasks.batch import Batch, Encoded, Example, Predictions, Tokenize
from clipbert.tasks.contrastive import contrastive_loss, projection_size
from clipbert.tasks.examples import Examples
from clipbert.tasks.presentation import BLANK, CLIPS, Headline, LinePlot, Report, Serving
from clipbert.tasks.scoring import rank_by_similarity, rank_gallery

VALIDATION_GALLERY = 25  # videos
VALIDATION_TEXTS, VALIDATION_LIMIT = 500, 1000  # captions in all, and videos of a gallery, of a dual encoder alone
TOP = 5  # videos that a row of the predictions lists


class RetrievalExamples(Examples):
    """One caption of each video per step; the captions of the other videos in the batch are its negatives."""

    kind = "caption"

    def draw(self, example: Example, generator: np.random.Generator) -> list[int]:
        return [int(generator.integers(len(example.texts)))]

    def labels(self, example: Example, chosen: list[int], config: Any) -> list[int]:
        return [1] * len(chosen)

    def prepare(self, batch: Batch, seeds: list[int], tokenize: Tokenize, config: Any) -> Batch:
        """Add the random numbers that choose the negatives of each video."""
        draws = [np.random.default_rng(seed).random(self.params.negatives) for seed in seeds]
        return replace(batch, draws=torch.from_numpy(np.stack(draws)))


class RetrievalObjective(Objective):
    """Cross-entropy over matched and unmatched pairs, plus the contrastive loss of the dual encoder."""

    model_class = ClipBertForRetrieval
    uses_dual_encoder = True

    def config_fields(self, train: list[Example]) -> dict[str, Any]:
        size = projection_size(self.params.contrastive_weight)
        fields = {"projection_size": size, "cross_encoder": self.params.cross_encoder}
        return fields | {"video_head": self.params.video_head}

    def prepare_model(self, model: Any) -> None:
        """Freeze the dual encoder or the cross-encoder.

        Raises:
            ClipBertError: the parameters leave no score or nothing to train, or the model has no pretrained dual
                encoder to freeze.
        """
        params, pretrained = self.params, model.pretrained is not None
        if not params.cross_encoder and model.contrast is None:
            raise ClipBertError(
                "tasks.retrieval.cross_encoder is false and tasks.retrieval.contrastive_weight is 0: nothing scores a "
                "text and a video. Set one of the two, or model.dual_encoder."
            )
        if params.freeze_dual_encoder and not pretrained:
            raise ClipBertError(
                "tasks.retrieval.freeze_dual_encoder is true, but this model has no pretrained dual encoder. Set "
                "model.dual_encoder to the folder or hub id of a CLIP or SigLIP model, or freeze_dual_encoder to false."
            )
        if pretrained and params.contrastive_weight == 0 and not params.freeze_dual_encoder:
            raise ClipBertError(
                "tasks.retrieval.contrastive_weight is 0, so nothing trains the text half of model.dual_encoder. Set "
                "tasks.retrieval.freeze_dual_encoder to true, or a weight above 0."
            )
        if params.freeze_dual_encoder and not params.cross_encoder and params.epochs > 0:
            raise ClipBertError(
                "tasks.retrieval.freeze_dual_encoder is true and tasks.retrieval.cross_encoder false: nothing is "
                "left to train. Set one of them the other way, or tasks.retrieval.epochs to 0 for the zero-shot model."
            )
        if params.freeze_dual_encoder:
            model.freeze_dual_encoder()
        if not params.cross_encoder:
            model.freeze_cross_encoder()

    def loss(self, model: Any, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        videos = batch.frames.shape[0]
        visual_embeds = batch.encode_video(model)
        parts: dict[str, Tensor] = {}
        similarity = None
        if model.contrast is not None:
            parts["contrastive"], similarity = contrastive_loss(
                model, visual_embeds, batch.input_ids, batch.attention_mask, batch, batch.text_lengths
            )
        if not model.config.cross_encoder:
            return self.params.contrastive_weight * parts["contrastive"], {"contrastive": parts["contrastive"].detach()}
        # Each video is paired with its own text and with `negatives` texts of other videos, of any rank.
        input_ids, attention_mask = batch.all_texts
        own = torch.arange(len(input_ids), device=input_ids.device)[RankRows(batch.videos_per_rank).own]
        unmatched = self.draw_negatives(own, len(input_ids), similarity, batch.draws)
        rows = torch.cat([own[:, None], unmatched], dim=1).flatten()
        labels = torch.zeros(videos, 1 + unmatched.shape[1], dtype=torch.long, device=rows.device)
        labels[:, 0] = 1
        pairs = model(
            visual_embeds=visual_embeds,
            input_ids=input_ids[rows],
            attention_mask=attention_mask[rows],
            texts_per_video=torch.full_like(batch.texts_per_video, labels.shape[1]),
            text_lengths=batch.pair_lengths(unmatched.shape[1]),
        )
        logits = pairs.logits.float()
        if similarity is not None:
            owner = torch.arange(videos, device=rows.device).repeat_interleave(labels.shape[1])
            logits = torch.stack([logits[:, 0], logits[:, 1] + similarity.detach()[rows, owner]], dim=1)
        matching = F.cross_entropy(logits, labels.flatten(), label_smoothing=model.label_smoothing)
        parts["matching"] = scale_loss_for_ddp(matching, labels.numel())
        total = parts["matching"]
        if "contrastive" in parts and not self.params.freeze_dual_encoder:
            total = total + self.params.contrastive_weight * parts["contrastive"]
        return total, {name: value.detach() for name, value in parts.items()}

    def draw_negatives(self, own: Tensor, texts: int, similarity: Tensor | None, draws: Tensor | None) -> Tensor:
        """Return the rows (B, negatives) of texts of other videos.

        Each is drawn without replacement: with probability `hard_negatives` from the softmax of the similarities,
        otherwise uniformly.

        Args:
            own: (B,) the row of each video's own text among the `texts` of the batch.
            similarity: (texts, B).
            draws: (B, negatives) in [0, 1), the random numbers.
        """
        negatives = min(self.params.negatives, texts - 1)
        is_own = own[:, None] == torch.arange(texts, device=own.device)
        weights = (~is_own).double() / max(1, texts - 1)
        if similarity is not None:
            hard = similarity.detach().double().T.masked_fill(is_own, float("-inf")).softmax(dim=1)
            weights = (1 - self.params.hard_negatives) * weights + self.params.hard_negatives * hard
        weights = weights + 1e-6 * ~is_own
        chosen: list[Tensor] = []
        for turn in range(negatives):
            assert draws is not None
            cumulative = weights.cumsum(dim=1)
            threshold = draws[:, turn, None] * cumulative[:, -1:]
            at = torch.searchsorted(cumulative, threshold, right=True).clamp(max=texts - 1)
            chosen.append(at)
            weights = weights.scatter(1, at, 0.0)
        return torch.cat(chosen, dim=1) if chosen else own.new_empty(len(own), 0)


class RetrievalEvaluator(Evaluator):
    """Ranks of each text's video in the gallery of the split."""

    main_metric = "retrieval/mrr"
    blank_frame_metrics = ("retrieval/r1", "retrieval/r5", "retrieval/r10", "retrieval/median_rank")
    evaluate_settings = ("rerank_top_k",)
    rerank_top_k: int | None = None

    def with_settings(self, evaluate: EvaluateParams) -> "RetrievalEvaluator":
        evaluator = RetrievalEvaluator(self.name, self.params)
        evaluator.rerank_top_k = evaluate.rerank_top_k
        return evaluator

    def validation_groups(self, examples: list[Example]) -> list[list[Example]]:
        """Return galleries of about 25 videos with one caption each, so that a validation is short.

        A dual encoder alone ranks fast: its gallery is the whole split, with up to `VALIDATION_TEXTS` captions in all,
        which makes the choice of the best epoch less noisy.

        Examples are in the order of their videos: with segments, every n-th one makes a gallery, which then mixes
        videos as the gallery of the test does.
        """
        if not self.params.cross_encoder:
            return _dual_encoder_groups(examples)
        first = [replace(e, ids=e.ids[:1], texts=e.texts[:1], answers=e.answers[:1]) for e in examples]
        groups = max(1, round(len(first) / VALIDATION_GALLERY))
        if any(example.segment is not None for example in first):
            return [first[start::groups] for start in range(groups)]
        return [[first[int(i)] for i in group] for group in np.array_split(np.arange(len(first)), groups)]

    def predict(
        self, model: Any, videos: Encoded, examples: list[Example], tokenize: Tokenize, batch_size: int
    ) -> Iterator[dict[str, Any]]:
        """Yield the rank of each text's video in the gallery of all examples, where a segment is an item of its own.

        With `rerank_top_k` the dual encoder ranks first and the cross-encoder reranks the best videos; the others stay
        below them, in the dual encoder's order.

        Raises:
            ClipBertError: `rerank_top_k` is set and the model has no dual encoder.
        """
        if self.rerank_top_k is not None and model.contrast is None:
            raise ClipBertError(
                f"evaluate.rerank_top_k is {self.rerank_top_k}, but this model has no dual encoder to rank with: its "
                "projection_size is null. Set evaluate.rerank_top_k to null, or train with "
                "tasks.retrieval.contrastive_weight above 0."
            )
        gallery = [example.key for example in examples]
        places = [example.place for example in examples]
        has_segments = any("start_s" in place for place in places)
        distinct = gallery[:1] if videos.identical else gallery
        visual_embeds = videos.of(distinct)  # (G, K, V, hidden)
        vectors = None if model.contrast is None else model.get_video_features(visual_embeds)  # (G, P)
        features = None
        if not model.config.cross_encoder:
            features = _text_features(model, examples, tokenize, batch_size)
        for truth, example in enumerate(examples):
            for text_id, text in zip(example.ids, example.texts, strict=True):
                extra: dict[str, Any] = {}
                if features is None or vectors is None:
                    tokens = tokenize([text])
                    found = rank_gallery(model, visual_embeds, vectors, *tokens, batch_size, self.rerank_top_k, truth)
                else:
                    found = rank_by_similarity(model, next(features), vectors, self.rerank_top_k, truth)
                if len(distinct) < len(gallery):
                    found = found.repeat(len(gallery))
                reranked, scores = found.reranked, found.scores
                if found.similarity is not None:
                    extra["dual_encoder_rank"] = _rank(found.similarity, truth)
                if self.rerank_top_k is not None:
                    extra["reranked"] = len(reranked)
                where = (reranked == truth).nonzero().flatten().tolist()
                rank = _rank(scores, where[0]) if where else extra["dual_encoder_rank"]
                best = scores.argsort(descending=True, stable=True)[:TOP]
                top = [places[i] for i in reranked[best].tolist()]
                if has_segments:
                    extra |= {f"top_{column}": [place.get(column) for place in top] for column in ("start_s", "end_s")}
                yield {
                    "item_id": text_id,
                    "score": float(rank == 1),
                    "chance": 1 / len(gallery),
                    "rank": rank,
                    **extra,
                    "gallery": len(gallery),
                    "text": text,
                    **example.place,
                    "top_media": [place["media"] for place in top],
                    "top_scores": scores[best].tolist(),
                }

    def metrics(self, items: Predictions) -> dict[str, float]:
        """Return the metrics of the ranks, and as `dual_encoder_...` those of the dual encoder's similarity alone.

        With `rerank_top_k`, also how many videos were reranked for a text, how many pairs of a text and a video that
        were, and the percentage of texts with their own video among them.
        """
        metrics = rank_metrics(items["rank"].to_numpy(), int(items["gallery"].max()))
        if "dual_encoder_rank" in items:
            alone = rank_metrics(items["dual_encoder_rank"].to_numpy(), int(items["gallery"].max()))
            metrics |= {f"retrieval/dual_encoder_{name}": alone[f"retrieval/{name}"] for name in ("r1", "r5", "r10")}
        if "reranked" in items:
            metrics |= {
                "retrieval/reranked": float(items["reranked"].mean()),
                "retrieval/reranked_pairs": float(items["reranked"].sum()),
                "retrieval/first_stage_recall": 100 * float((items["dual_encoder_rank"] <= items["reranked"]).mean()),
            }
        return metrics

    def baselines(self, items: Predictions, train: list[Example]) -> dict[str, float]:
        gallery = int(items["gallery"].max())
        return {
            **{f"retrieval/chance_r{k}": 100 * min(k / gallery, 1.0) for k in (1, 5, 10)},
            "retrieval/chance_median_rank": (gallery + 1) / 2,
        }


def _dual_encoder_groups(examples: list[Example]) -> list[list[Example]]:
    """Return galleries of at most `VALIDATION_LIMIT` videos, each with its share of `VALIDATION_TEXTS` captions."""
    each = max(1, VALIDATION_TEXTS // max(1, len(examples)))
    few = [replace(e, ids=e.ids[:each], texts=e.texts[:each], answers=e.answers[:each]) for e in examples]
    groups = -(-len(few) // VALIDATION_LIMIT)
    return [few[start::groups] for start in range(groups)]


def _text_features(model: Any, examples: list[Example], tokenize: Tokenize, batch_size: int) -> Iterator[Tensor]:
    """Yield the vector (P,) of each text, computed in batches of texts of similar length."""
    texts = [text for example in examples for text in example.texts]
    order = sorted(range(len(texts)), key=lambda index: len(texts[index]))
    features: dict[int, Tensor] = {}
    for start in range(0, len(order), batch_size):
        chosen = order[start : start + batch_size]
        vectors = model.get_text_features(*tokenize([texts[index] for index in chosen]))
        features |= dict(zip(chosen, vectors, strict=True))
    return (features[index] for index in range(len(texts)))


def _rank(scores: Tensor, truth: int) -> int:
    """Return the number of videos that score at least as high as the true one: a tie counts against the model."""
    return int((scores >= scores[truth]).sum())


def rank_metrics(ranks: np.ndarray, gallery: int) -> dict[str, float]:
    """Return R@1, R@5, R@10 in percent, median and mean rank, and mean reciprocal rank in percent, of 1-based ranks."""
    return {
        **{f"retrieval/r{k}": 100 * float((ranks <= k).mean()) for k in (1, 5, 10)},
        "retrieval/median_rank": float(np.median(ranks)),
        "retrieval/mean_rank": float(ranks.mean()),
        "retrieval/mrr": 100 * float((1 / ranks).mean()),
        "retrieval/gallery": float(gallery),
        "retrieval/queries": float(len(ranks)),
    }


class RetrievalReport(Report):
    """Recall at k, and the ranking of each shown text."""

    title = "Text-to-video retrieval"
    headlines = (
        *(
            Headline(
                f"R@{k}",
                f"r{k}",
                (("chance", f"chance_r{k}"), (BLANK, f"blank_frames_r{k}")),
                row=f"text-to-video R@{k}, %",
            )
            for k in (1, 5, 10)
        ),
        Headline(
            "median rank",
            "median_rank",
            (("chance", "chance_median_rank"), (BLANK, "blank_frames_median_rank"), ("of", "gallery")),
            row="median rank",
            percent=False,
        ),
        Headline(
            "reranked videos per text",
            "reranked",
            (("of", "gallery"), ("texts with their own video among them, %", "first_stage_recall")),
            percent=False,
        ),
    )
    plot = LinePlot(
        "Recall at k on the test videos",
        table="recall",
        x="k",
        columns={"recall": "this model", "blank_frames": BLANK, "chance": "chance"},
        xlabel="k",
        ylabel="recall at k, %",
        log_x=True,
        top=100,
    )

    def tables(self, items: pd.DataFrame, blank_items: pd.DataFrame) -> dict[str, pd.DataFrame]:
        """Return k, recall, blank_frames and chance: the percentage of texts with their video among the first k."""
        gallery = int(items["gallery"].max())
        k = np.arange(1, gallery + 1)
        recall, blank = (
            100 * (rows["rank"].to_numpy()[None, :] <= k[:, None]).mean(axis=1) for rows in (items, blank_items)
        )
        return {"recall": pd.DataFrame({"k": k, "recall": recall, "blank_frames": blank, "chance": 100 * k / gallery})}

    def lines(self, row: dict[str, Any]) -> list[str]:
        item = "segment" if pd.notna(row.get("start_s")) else "video"
        return [row["text"], f"its {item} ranks {row['rank']} of {row['gallery']}"]


@register_task
class Retrieval(Task):
    """Finds the video that a text describes."""

    name = "retrieval"
    params_class = RetrievalParams
    examples_class = RetrievalExamples
    objective_class = RetrievalObjective
    evaluator_class = RetrievalEvaluator
    report = RetrievalReport()
    card = CardText(
        title="text-to-video retrieval",
        about="It scores how well a text describes a video, and so finds the videos for a text.",
        pipeline_tag="feature-extraction",
        tags=("video-retrieval",),
        metrics=("recall",),
        example='search = pipeline("retrieval", "{folder}")\nsearch("a red circle", ["a.mp4", "b.mp4"])',
    )
    serving = Serving(
        inputs={"video": "string", "text": "string"},
        outputs={"score": "double"},
        example={"video": "data/videos/example.mp4", "text": "a red square moves to the left"},
        params=CLIPS,
    )
