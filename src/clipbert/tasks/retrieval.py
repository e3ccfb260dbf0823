"""Text-to-video retrieval: a matched/unmatched cross-encoder, helped from scratch by an in-batch contrastive term."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from clipbert.config.schema import EvaluateParams
from clipbert.config.tasks import RetrievalParams
from clipbert.distributed.collectives import RankRows, scale_loss_for_ddp
from clipbert.errors import ClipBertError
from clipbert.tasks.base import Batch, Encoded, Example, Predictions, Task, Tokenize, contrastive_loss
from clipbert.tasks.scoring import rank_gallery

VALIDATION_GALLERY = 25
TOP = 5


class Retrieval(Task):
    """Every text is scored against every video by the cross-encoder, as in the paper (section 3.3), or against the
    `rerank` videos that the towers rank first."""

    name = "retrieval"
    kind = "caption"
    main_metric = "retrieval/mrr"
    compared = ("retrieval/r1", "retrieval/r5", "retrieval/r10", "retrieval/median_rank")
    plot = "recall"
    params: RetrievalParams
    rerank: int | None = None

    def measured(self, params: EvaluateParams) -> "Retrieval":
        task = Retrieval(self.params)
        task.rerank = params.rerank_top_k
        return task

    def model_class(self) -> type[Any]:
        from clipbert.model import ClipBertForRetrieval

        return ClipBertForRetrieval

    def config_fields(self, train: list[Example]) -> dict[str, Any]:
        return {"projection_size": 128 if self.params.contrastive_weight > 0 else None}

    def draw(self, example: Example, generator: np.random.Generator) -> list[int]:
        return [int(generator.integers(len(example.texts)))]

    def labels(self, example: Example, chosen: list[int], config: Any) -> list[int]:
        return [1] * len(chosen)

    def loss(self, model: Any, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Cross-entropy over matched and unmatched pairs, plus the symmetric contrastive loss where it is on."""
        videos = batch.pixel_values.shape[0]
        visual_embeds = model.encode_video(batch.pixel_values)
        parts: dict[str, Tensor] = {}
        similarity = None
        if self.params.contrastive_weight > 0:
            parts["contrastive"], similarity = contrastive_loss(
                model, visual_embeds, batch.input_ids, batch.attention_mask, batch
            )
        input_ids, attention_mask = batch.all_texts
        own = torch.arange(len(input_ids), device=input_ids.device)[RankRows(batch.videos_per_rank).own]
        unmatched = self._unmatched(own, len(input_ids), similarity, batch.draws)
        rows = torch.cat([own[:, None], unmatched], dim=1).flatten()
        labels = torch.zeros(videos, 1 + unmatched.shape[1], dtype=torch.long, device=rows.device)
        labels[:, 0] = 1
        pairs = model(
            visual_embeds=visual_embeds,
            input_ids=input_ids[rows],
            attention_mask=attention_mask[rows],
            texts_per_video=torch.full_like(batch.texts_per_video, labels.shape[1]),
        )
        logits = pairs.logits.float()
        if similarity is not None:
            owner = torch.arange(videos, device=rows.device).repeat_interleave(labels.shape[1])
            logits = torch.stack([logits[:, 0], logits[:, 1] + similarity.detach()[rows, owner]], dim=1)
        matching = F.cross_entropy(logits, labels.flatten(), label_smoothing=model.label_smoothing)
        parts["matching"] = scale_loss_for_ddp(matching, labels.numel())
        total = parts["matching"] + self.params.contrastive_weight * parts.get("contrastive", torch.zeros(()))
        return total, {name: value.detach() for name, value in parts.items()}

    def prepare(self, batch: Batch, seeds: list[int], tokenize: Tokenize, config: Any) -> Batch:
        draws = [np.random.default_rng(seed).random(self.params.negatives) for seed in seeds]
        return replace(batch, draws=torch.from_numpy(np.stack(draws)))

    def _unmatched(self, own: Tensor, texts: int, similarity: Tensor | None, draws: Tensor | None) -> Tensor:
        """(B, negatives) rows of texts of other videos, `hard_negatives` of them the likelier the more alike.

        Args:
            own: (B,) the row of each video's own text among the `texts` of the batch.
            likeness: (texts, B).
            draws: (B, negatives) in [0, 1): which is taken.
        """
        negatives = min(self.params.negatives, texts - 1)
        itself = own[:, None] == torch.arange(texts, device=own.device)
        weights = (~itself).double() / max(1, texts - 1)
        if similarity is not None:
            alike = similarity.detach().double().T.masked_fill(itself, float("-inf")).softmax(dim=1)
            weights = (1 - self.params.hard_negatives) * weights + self.params.hard_negatives * alike
        weights = weights + 1e-6 * ~itself
        chosen: list[Tensor] = []
        for turn in range(negatives):
            assert draws is not None
            upto = weights.cumsum(dim=1)
            at = torch.searchsorted(upto, draws[:, turn, None] * upto[:, -1:], right=True).clamp(max=texts - 1)
            chosen.append(at)
            weights = weights.scatter(1, at, 0.0)
        return torch.cat(chosen, dim=1) if chosen else own.new_empty(len(own), 0)

    def validation(self, examples: list[Example]) -> list[list[Example]]:
        """Galleries of about 25 videos with one caption each: an epoch's check stays a small part of the epoch."""
        first = [replace(e, ids=e.ids[:1], texts=e.texts[:1], answers=e.answers[:1]) for e in examples]
        groups = max(1, round(len(first) / VALIDATION_GALLERY))
        return [[first[int(i)] for i in group] for group in np.array_split(np.arange(len(first)), groups)]

    def predict(
        self, model: Any, videos: Encoded, examples: list[Example], tokenize: Tokenize, batch_size: int
    ) -> Iterator[dict[str, Any]]:
        """Rank the gallery for each text by `rank_gallery`'s scores.

        With `rerank` the towers alone rank first; only the best so many are judged, and the others stay below them in
        the towers' order.

        Raises:
            ClipBertError: `rerank` is set and the model has no towers.
        """
        if self.rerank is not None and model.contrast is None:
            raise ClipBertError(
                f"evaluate.rerank_top_k is {self.rerank}, but this model has no towers to rank by first: its "
                "projection_size is null. Set evaluate.rerank_top_k to null, or train with "
                "tasks.retrieval.contrastive_weight above 0."
            )
        gallery = [example.media for example in examples]
        distinct = gallery[:1] if videos.identical else gallery
        visual_embeds = videos.of(distinct)  # (G, K, V, hidden)
        vectors = None if model.contrast is None else model.get_video_features(visual_embeds)  # (G, P)
        for truth, example in enumerate(examples):
            for text_id, text in zip(example.ids, example.texts, strict=True):
                tokens, extra = tokenize([text]), {}
                found = rank_gallery(model, visual_embeds, vectors, *tokens, batch_size, self.rerank, truth)
                if len(distinct) < len(gallery):
                    found = found.repeat(len(gallery))
                judged, scores = found.judged, found.scores
                if found.similarity is not None:
                    extra["towers_rank"] = _rank(found.similarity, truth)
                if self.rerank is not None:
                    extra["judged"] = len(judged)
                where = (judged == truth).nonzero().flatten().tolist()
                rank = _rank(scores, where[0]) if where else extra["towers_rank"]
                best = scores.argsort(descending=True, stable=True)[:TOP]
                yield {
                    "item_id": text_id,
                    "score": float(rank == 1),
                    "chance": 1 / len(gallery),
                    "rank": rank,
                    **extra,
                    "gallery": len(gallery),
                    "text": text,
                    "media": example.media,
                    "top_media": [gallery[i] for i in judged[best].tolist()],
                    "top_scores": scores[best].tolist(),
                }

    def metrics(self, items: Predictions) -> dict[str, float]:
        """Of the ranks by the whole score; `towers_...` are those by the towers' similarity alone.

        Where evaluation reranked: how many videos the cross-encoder judged for a text, how many pairs that were, and
        for how many texts, in percent, their own video was among them.
        """
        metrics = rank_metrics(items["rank"].to_numpy(), int(items["gallery"].max()))
        if "towers_rank" in items:
            towers = rank_metrics(items["towers_rank"].to_numpy(), int(items["gallery"].max()))
            metrics |= {f"retrieval/towers_{name}": towers[f"retrieval/{name}"] for name in ("r1", "r5", "r10")}
        if "judged" in items:
            metrics |= {
                "retrieval/judged": float(items["judged"].mean()),
                "retrieval/judged_pairs": float(items["judged"].sum()),
                "retrieval/first_stage_recall": 100 * float((items["towers_rank"] <= items["judged"]).mean()),
            }
        return metrics

    def baselines(self, items: Predictions, train: list[Example]) -> dict[str, float]:
        gallery = int(items["gallery"].max())
        return {
            **{f"retrieval/chance_r{k}": 100 * min(k / gallery, 1.0) for k in (1, 5, 10)},
            "retrieval/chance_median_rank": (gallery + 1) / 2,
        }

    @staticmethod
    def words(row: dict[str, Any]) -> list[str]:
        return [row["text"], f"its video ranks {row['rank']} of {row['gallery']}"]


def _rank(scores: Tensor, truth: int) -> int:
    """1 + the videos that score at least as high as the true one: a tie counts against the model."""
    return int((scores >= scores[truth]).sum())


def rank_metrics(ranks: np.ndarray, gallery: int) -> dict[str, float]:
    """R@1, R@5, R@10 in percent, median and mean rank, mean reciprocal rank in percent, from 1-based ranks."""
    return {
        **{f"retrieval/r{k}": 100 * float((ranks <= k).mean()) for k in (1, 5, 10)},
        "retrieval/median_rank": float(np.median(ranks)),
        "retrieval/mean_rank": float(ranks.mean()),
        "retrieval/mrr": 100 * float((1 / ranks).mean()),
        "retrieval/gallery": float(gallery),
        "retrieval/queries": float(len(ranks)),
    }
