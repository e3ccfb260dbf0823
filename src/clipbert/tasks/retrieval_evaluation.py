"""Evaluation of retrieval in both directions: ranks, their metrics and baselines, and the report."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike

from clipbert.config.schema import EvaluateParams
from clipbert.distributed.context import DistributedContext
from clipbert.errors import ClipBertError
from clipbert.evaluation.metrics import ranking
from clipbert.evaluation.metrics.intervals import Median, Ratio, Statistic
from clipbert.tasks.base import Evaluator, thinned
from clipbert.tasks.batch import Encoded, Example, Predictions, Tokenize
from clipbert.tasks.gallery_scores import NOT_RERANKED, GalleryScores, ScoreBlock, rank_in_row
from clipbert.tasks.presentation import BLANK, SHUFFLED, SINGLE_FRAME, Headline, LinePlot, Report
from clipbert.tasks.score_store import ScoreStore
from clipbert.tasks.scoring import losses_of

VALIDATION_GALLERY = 25  # videos
VALIDATION_TEXTS, VALIDATION_LIMIT = 500, 1000  # captions in all, and videos of a gallery, of a dual encoder alone
TOP = 5  # videos that a row of the predictions lists
MAX_SCORES = 2**28  # kept in memory (1 GiB) for the video-to-text direction, if they are not stored on the disk
RECALLS = (1, 5, 10, 50)
OTHER_FRAMES = ((SINGLE_FRAME, "single_frame_r1"), (SHUFFLED, "shuffled_frames_r1"))
# Other frames are scored with at most 100 texts: the best 10 videos of each, or every 10th text without a dual encoder.
CONDITION_TEXTS, CONDITION_RERANK, CONDITION_SHARE = 100, 10, 10


class RetrievalEvaluator(Evaluator):
    """Ranks of each text's video in the gallery of the split."""

    main_metric = "retrieval/mrr"
    blank_frame_metrics = (
        "retrieval/r1",
        "retrieval/r5",
        "retrieval/r10",
        "retrieval/median_rank",
        "retrieval/video_to_text_r1",
    )
    frame_conditions, score_metric = True, "r1"
    evaluate_settings = ("rerank_top_k", "precision")
    shares_videos = True
    rerank_top_k: int | None = None
    context = DistributedContext()
    store: ScoreStore | None = None

    def with_settings(self, evaluate: EvaluateParams) -> "RetrievalEvaluator":
        """Return the evaluator that reranks `evaluate.rerank_top_k` videos; "auto", not resolved, means all."""
        evaluator = RetrievalEvaluator(self.name, self.params)
        evaluator.rerank_top_k = evaluate.rerank_top_k if isinstance(evaluate.rerank_top_k, int) else None
        return evaluator

    def with_execution(self, context: DistributedContext, store: ScoreStore | None) -> "RetrievalEvaluator":
        """Return the evaluator that scores a part of the gallery in each process and keeps finished blocks."""
        evaluator = RetrievalEvaluator(self.name, self.params)
        evaluator.rerank_top_k, evaluator.context, evaluator.store = self.rerank_top_k, context, store
        return evaluator

    def for_conditions(self, model: Any, examples: list[Example]) -> tuple[Evaluator, list[Example]]:
        """Return an evaluator that reranks few videos, or fewer texts if no dual encoder ranks first."""
        evaluator = RetrievalEvaluator(self.name, self.params)
        texts = sum(len(example.texts) for example in examples)
        if model.contrast is None:
            return evaluator, thinned(examples, min(CONDITION_TEXTS, -(-texts // CONDITION_SHARE)), keep_empty=True)
        if model.config.cross_encoder:
            evaluator.rerank_top_k = min(CONDITION_RERANK, self.rerank_top_k or CONDITION_RERANK)
        return evaluator, thinned(examples, CONDITION_TEXTS, keep_empty=True)

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

        Short texts come first. In a process group each process has the encoded videos of its share (`own_videos`), and
        only the first one gets rows.

        With `rerank_top_k` the dual encoder ranks first and the cross-encoder reranks the best videos; the others stay
        below them, in the dual encoder's order.

        Where every text has a score with every video, the rows also get `text_rank`, the rank of the text for its own
        video among the `other_texts` texts of the other videos.

        Raises:
            ClipBertError: `rerank_top_k` is set and the model has no dual encoder, or a score is not a number.
        """
        if self.rerank_top_k is not None and model.contrast is None:
            raise ClipBertError(
                f"evaluate.rerank_top_k is {self.rerank_top_k}, but this model has no dual encoder to rank with: its "
                "projection_size is null. Set evaluate.rerank_top_k to null, or train with "
                "tasks.retrieval.contrastive_weight above 0."
            )
        gallery = [example.key for example in examples]
        texts = [text for example in examples for text in example.texts]
        owners = np.repeat(np.arange(len(examples)), [len(example.texts) for example in examples])
        single = videos.identical  # blank frames: the scores of one video are those of all
        every_pair = single or self.rerank_top_k is None or self.rerank_top_k >= len(gallery)
        scores = GalleryScores(
            model=model,
            videos=videos,
            gallery=gallery[:1] if single else gallery,
            texts=texts,
            owners=np.zeros_like(owners) if single else owners,
            tokenize=tokenize,
            batch_size=batch_size,
            rerank=self.rerank_top_k,
            context=self.context,
            store=self.store,
        )
        queries = [(example, text_id) for example in examples for text_id in example.ids]
        places, rows = [example.place for example in examples], dict[int, dict[str, Any]]()
        segments = any("start_s" in place for place in places)
        own = np.empty(len(texts), dtype=np.float32)
        complete = every_pair and (self.store is not None or len(texts) * len(gallery) <= MAX_SCORES)
        kept: list[ScoreBlock] = []  # without a store
        for found in scores.blocks():
            block = found.repeat(len(gallery)) if single else found
            for row, text in enumerate(block.texts.tolist()):
                example, text_id = queries[text]
                if bool(np.isnan(block.scores[row]).any()):
                    raise ClipBertError(
                        f"{self.name}: a score of the text {text_id} ({texts[text]!r}, {example.key}) is not a number. "
                        "The weights of the model are damaged or its training diverged: train again with a lower "
                        "train.lr."
                    )
                rows[text] = {"item_id": text_id} | self._ranked(block, row, int(owners[text]), places, segments)
                rows[text] |= {"text": texts[text], **example.place} | rows[text].pop("top")
                yield rows[text]
            own[block.texts] = block.scores[np.arange(len(block.texts)), owners[block.texts]]
            if complete and self.store is None:
                kept.append(block)
        if complete and rows:  # they are finished only now that all scores are known
            every = kept if self.store is None else scores.stored_blocks()
            others = len(texts) - np.bincount(owners, minlength=len(examples))
            ranks = ranking.ranks_of_texts_in_blocks(own, owners, ((block.texts, block.scores) for block in every))
            for text, row_of_text in rows.items():
                row_of_text |= {"text_rank": float(ranks[text]), "other_texts": int(others[owners[text]])}

    def _ranked(
        self, block: ScoreBlock, row: int, truth: int, places: list[dict[str, Any]], segments: bool
    ) -> dict[str, Any]:
        """Return the columns of a text that its scores decide; `top` holds those that come last."""
        scores, found = block.scores[row], dict[str, Any]()
        reranked = np.flatnonzero(scores != NOT_RERANKED)
        if block.similarity is not None:
            found["dual_encoder_rank"] = ranking.mean_rank_of(block.similarity[row], truth)
        if self.rerank_top_k is not None:
            found["reranked"] = len(reranked)
        rank = rank_in_row(scores, None if block.similarity is None else block.similarity[row], truth)
        in_ranking = bool(scores[truth] != NOT_RERANKED)
        softmax = torch.from_numpy(scores[reranked]).softmax(dim=0)
        best = reranked[np.argsort(-scores[reranked], kind="stable")[:TOP]]
        top = [places[i] for i in best.tolist()]
        if segments:
            found |= {f"top_{column}": [place.get(column) for place in top] for column in ("start_s", "end_s")}
        return {
            "score": float(rank == 1),
            "chance": 1 / len(scores),
            "rank": rank,
            "loss": losses_of(softmax[None], [int(np.searchsorted(reranked, truth))])[0] if in_ranking else np.nan,
            **found,
            "gallery": len(scores),
            "top": {"top_media": [place["media"] for place in top], "top_scores": scores[best].tolist()},
        }

    def metrics(self, items: Predictions) -> dict[str, float]:
        """Return the metrics of the ranks, and as `dual_encoder_...` those of the dual encoder's similarity alone.

        With `rerank_top_k`, also how many videos were reranked for a text, how many pairs of a text and a video that
        were, and the percentage of texts with their own video among them.
        """
        metrics = {name: statistic.value() for name, statistic in self.statistics(items).items()}
        metrics |= {"retrieval/gallery": float(items["gallery"].max()), "retrieval/queries": float(len(items))}
        if "text_rank" in items:
            metrics["retrieval/video_to_text_queries"] = float(_keys(items).nunique())
        if "dual_encoder_rank" in items:
            ranks = items["dual_encoder_rank"]
            metrics |= {f"retrieval/dual_encoder_r{k}": ranking.recall_at_k(ranks, k) for k in (1, 5, 10)}
        if "reranked" in items:
            metrics |= {
                "retrieval/reranked": float(items["reranked"].mean()),
                "retrieval/reranked_pairs": float(items["reranked"].sum()),
                "retrieval/first_stage_recall": 100 * float((items["rank"] <= items["reranked"]).mean()),
            }
        return metrics

    def statistics(self, items: Predictions) -> dict[str, Statistic]:
        """Return the metrics of both directions: each caption is a query, and each video with all its captions."""
        media = items["media"].to_numpy()
        found = _rank_statistics("", items["rank"], ranking.gains(items["rank"]), media)
        if "text_rank" not in items:
            return found
        keys = _keys(items).to_numpy()
        own = items.groupby(keys)["media"].first().to_numpy()  # in the order of the sorted keys
        best, ndcg = ranking.best_ranks(items["text_rank"], keys), ranking.ndcg_of_several(items["text_rank"], keys)
        found |= _rank_statistics("video_to_text_", best, ndcg, own)
        chosen = ranking.expected_choice(items["text_rank"], items["other_texts"])
        return found | {"retrieval/five_captions_accuracy": Ratio(chosen, media)}

    def baselines(self, items: Predictions, train: list[Example]) -> dict[str, float]:
        gallery = int(items["gallery"].max())
        return {
            **{f"retrieval/chance_r{k}": 100 * min(k / gallery, 1.0) for k in RECALLS},
            "retrieval/chance_median_rank": (gallery + 1) / 2,
            **self._video_to_text_chance(items),
        }

    @staticmethod
    def _video_to_text_chance(items: Predictions) -> dict[str, float]:
        """Return R@1 of a random order of the texts: the share of texts that are a video's own."""
        if "other_texts" not in items:
            return {}
        videos = items.assign(key=_keys(items)).groupby("key")["other_texts"].agg(["size", "first"])
        return {"retrieval/chance_video_to_text_r1": 100 * float((videos["size"] / videos.sum(axis=1)).mean())}


def _dual_encoder_groups(examples: list[Example]) -> list[list[Example]]:
    """Return galleries of at most `VALIDATION_LIMIT` videos, each with its share of `VALIDATION_TEXTS` captions."""
    each = max(1, VALIDATION_TEXTS // max(1, len(examples)))
    few = [replace(e, ids=e.ids[:each], texts=e.texts[:each], answers=e.answers[:each]) for e in examples]
    groups = -(-len(few) // VALIDATION_LIMIT)
    return [few[start::groups] for start in range(groups)]


def _keys(items: Predictions) -> pd.Series:
    """Return the name of each row's item of the gallery: its media, with the segment where it has one."""
    if "start_s" not in items:
        return items["media"]
    ends = [pd.to_numeric(items[column]).fillna(-1.0).map(str) for column in ("start_s", "end_s")]
    return items["media"] + "#" + ends[0] + "-" + ends[1]


def _rank_statistics(prefix: str, ranks: ArrayLike, ndcg: ArrayLike, media: ArrayLike) -> dict[str, Statistic]:
    """Return R@k, the mean reciprocal rank and nDCG in percent, and the median and mean rank, of 1-based ranks."""
    values = np.asarray(ranks, dtype=np.float64)
    found: dict[str, Statistic] = {f"r{k}": Ratio(ranking.hits_at_k(values, k), media) for k in RECALLS}
    found |= {
        "median_rank": Median(values, media),
        "mean_rank": Ratio(values, media, scale=1, bounded=False),
        "mrr": Ratio(ranking.reciprocal_ranks(values), media),
        "ndcg": Ratio(ndcg, media),
    }
    return {f"retrieval/{prefix}{name}": statistic for name, statistic in found.items()}


class RetrievalReport(Report):
    """Recall at k, and the ranking of each shown text."""

    title = "Text-to-video retrieval"
    paired_column, paired_lower_is_better = "rank", True
    headlines = (
        *(
            Headline(
                f"R@{k}",
                f"r{k}",
                (("chance", f"chance_r{k}"), (BLANK, f"blank_frames_r{k}"), *(OTHER_FRAMES if k == 1 else ())),
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
            "video-to-text R@1",
            "video_to_text_r1",
            (("chance", "chance_video_to_text_r1"), (BLANK, "blank_frames_video_to_text_r1")),
            row="video-to-text R@1, %",
            optional=True,
        ),
        Headline(
            "reranked videos per text",
            "reranked",
            (("of", "gallery"), ("texts with their own video among them, %", "first_stage_recall")),
            percent=False,
            optional=True,
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
        return [row["text"], f"its {item} ranks {row['rank']:g} of {row['gallery']}"]
