"""Retrieval: ranks, their metrics, and which texts become negatives."""

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from clipbert.config.schema import EvaluateParams, Params
from clipbert.config.tasks import RetrievalParams
from clipbert.errors import ClipBertError
from clipbert.model import ClipBertConfig
from clipbert.sampling.segments import Segment
from clipbert.tasks import make_task
from clipbert.tasks.batch import Encoded, Example
from clipbert.tasks.retrieval import Retrieval


def example(index: int) -> Example:
    return Example(f"v{index}", [f"c{index}"], [str(index)], [""], [""])


class TableModel:
    """A model whose scores of a text for a video come from a table, so that ranks can be computed by hand."""

    contrast = None
    config = ClipBertConfig.tiny()

    def __init__(self, table: list[list[float]]) -> None:
        self.table = torch.tensor(table)

    def __call__(self, visual_embeds, input_ids, attention_mask, texts_per_video):  # type: ignore[no-untyped-def]
        videos = visual_embeds[:, 0, 0, 0].long()
        self.logits = self.table[input_ids[:, 0], videos][:, None]
        return self

    def match_scores(self, logits: torch.Tensor) -> torch.Tensor:
        return logits[:, 0]


class TwoStages(TableModel):
    """A model with a dual encoder whose similarities are a table, too; it counts the pairs it scores."""

    contrast = True

    def __init__(self, table: list[list[float]], similarity: list[list[float]]) -> None:
        super().__init__(table)
        self.similarities = torch.tensor(similarity)
        self.pairs = 0

    def __call__(self, visual_embeds, **rest):  # type: ignore[no-untyped-def]
        self.pairs += len(visual_embeds)
        return super().__call__(visual_embeds, **rest)

    def get_text_features(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        return input_ids

    def get_video_features(self, visual_embeds: torch.Tensor) -> torch.Tensor:
        return visual_embeds[:, 0, 0].long()

    def similarity(self, text: torch.Tensor, video: torch.Tensor) -> torch.Tensor:
        return self.similarities[text[:, 0].long()][:, video[:, 0].long()]


def ranks_of(table: list[list[float]], batch_size: int = 2) -> list[int]:
    return [row["rank"] for row in rows_of(TableModel(table), len(table), batch_size=batch_size)]


def rows_of(model: TableModel, count: int, rerank: int | None = None, batch_size: int = 2) -> list[dict[str, Any]]:
    videos = Encoded([f"v{i}" for i in range(count)], [torch.full((1, 1, 1), float(i)) for i in range(count)])

    def tokenize(texts: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
        ids = torch.tensor([[int(text)] for text in texts])
        return ids, torch.ones_like(ids)

    evaluator = Retrieval(RetrievalParams()).evaluator.with_settings(EvaluateParams(rerank_top_k=rerank))
    return list(evaluator.predict(model, videos, [example(i) for i in range(count)], tokenize, batch_size))


def test_the_rank_counts_the_videos_that_score_at_least_as_high() -> None:
    assert ranks_of([[9, 1, 5], [1, 2, 3], [4, 3, 2]]) == [1, 2, 3]


def test_equal_scores_share_their_mean_rank() -> None:
    assert ranks_of([[0, 0, 0], [0, 0, 0], [0, 0, 0]]) == [2, 2, 2]
    assert ranks_of([[1, 1, 0], [0, 2, 2], [0, 0, 0]]) == [1.5, 1.5, 2]


def test_a_videos_texts_are_ranked_too() -> None:
    rows = rows_of(TableModel([[5, 0, 1], [6, 4, 1], [0, 4, 0]]), 3)
    assert [row["rank"] for row in rows] == [1, 2, 2.5]
    # video 0 prefers text 1 to its own; video 1 has its text tied with text 2; video 2 prefers both others
    assert [row["text_rank"] for row in rows] == [2, 1.5, 3]
    assert [row["other_texts"] for row in rows] == [2, 2, 2]
    evaluator = Retrieval(RetrievalParams()).evaluator
    metrics = evaluator.metrics(pd.DataFrame(rows))
    assert metrics["retrieval/video_to_text_r1"] == 0.0
    assert metrics["retrieval/video_to_text_r5"] == 100.0
    assert metrics["retrieval/video_to_text_median_rank"] == 2.0
    assert metrics["retrieval/video_to_text_mrr"] == pytest.approx(100 * (1 / 2 + 2 / 3 + 1 / 3) / 3)
    assert metrics["retrieval/video_to_text_queries"] == 3.0
    assert evaluator.baselines(pd.DataFrame(rows), [])["retrieval/chance_video_to_text_r1"] == pytest.approx(100 / 3)


def test_a_video_with_several_captions_counts_by_the_best_of_them() -> None:
    examples = [Example("v0", ["a", "b"], ["0", "1"], [""] * 2, [""] * 2), Example("v1", ["c"], ["2"], [""], [""])]
    videos = Encoded(["v0", "v1"], [torch.full((1, 1, 1), float(i)) for i in range(2)])

    def tokenize(texts: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
        ids = torch.tensor([[int(text)] for text in texts])
        return ids, torch.ones_like(ids)

    # of each text (row) with both videos: video 0 ranks b, c, a and video 1 ranks c first
    model = TableModel([[1, 0], [9, 8], [5, 9]])
    evaluator = Retrieval(RetrievalParams()).evaluator
    items = pd.DataFrame(evaluator.predict(model, videos, examples, tokenize, 2))
    assert items["text_rank"].tolist() == [2, 1, 1]
    assert items["other_texts"].tolist() == [1, 1, 2]
    metrics = evaluator.metrics(items)
    assert metrics["retrieval/queries"] == 3.0
    assert metrics["retrieval/video_to_text_queries"] == 2.0
    assert metrics["retrieval/video_to_text_r1"] == 100.0
    ideal = 1 + 1 / np.log2(3)
    assert metrics["retrieval/video_to_text_ndcg"] == pytest.approx(100 * ((1 + 1 / np.log2(4)) / ideal + 1) / 2)
    chance = evaluator.baselines(items, [])
    assert chance["retrieval/chance_video_to_text_r1"] == pytest.approx(100 * (2 / 3 + 1 / 3) / 2)


def test_a_score_that_is_not_a_number_names_the_text() -> None:
    with pytest.raises(ClipBertError, match=r"retrieval: a score of the text \S+ \('1', v1\) is not a number"):
        ranks_of([[1, 0], [float("nan"), 0]])


SIMILARITY = [[5, 4, 3, 2], [4, 3, 2, 1], [4, 3, 1, 2], [1, 0, 0, 0]]
SCORES = [[0, 9, 0, 90], [0, 5, 80, 80], [0, 0, 99, 0], [5, 0, 0, 50]]


def test_only_the_best_of_the_first_stage_are_reranked_and_the_rest_stays_below() -> None:
    model = TwoStages(SCORES, SIMILARITY)
    rows = rows_of(model, 4, rerank=2)
    assert model.pairs == 8
    # Text 0: its video, 5 + 0, loses to 4 + 9. Text 1: 3 + 5 wins. Texts 2 and 3: their video was never reranked, and
    # that of text 3 ties with video 2 in the dual encoder's order.
    assert [row["rank"] for row in rows] == [2, 1, 4, 3.5]
    assert [row["dual_encoder_rank"] for row in rows] == [1, 2, 4, 3]
    assert [row["reranked"] for row in rows] == [2, 2, 2, 2]
    assert rows[0]["top_media"] == ["v1", "v0"]
    assert rows[0]["top_scores"] == [13, 5]
    metrics = Retrieval(RetrievalParams()).evaluator.metrics(pd.DataFrame(rows))
    assert metrics["retrieval/reranked"] == 2.0
    assert metrics["retrieval/reranked_pairs"] == 8.0
    assert metrics["retrieval/first_stage_recall"] == 50.0
    assert metrics["retrieval/dual_encoder_r1"] == 25.0
    assert metrics["retrieval/r1"] == 25.0


@pytest.mark.parametrize("rerank", [4, 400])
def test_reranking_all_of_them_is_the_exhaustive_ranking(rerank: int) -> None:
    exhaustive = rows_of(TwoStages(SCORES, SIMILARITY), 4)
    assert "reranked" not in exhaustive[0]
    assert "retrieval/reranked_pairs" not in Retrieval(RetrievalParams()).evaluator.metrics(pd.DataFrame(exhaustive))
    rows = rows_of(TwoStages(SCORES, SIMILARITY), 4, rerank=rerank)
    assert [{**row, "reranked": 4} for row in exhaustive] == rows


def test_in_a_tie_of_the_first_stage_the_true_video_is_left_out() -> None:
    rows = rows_of(TwoStages([[9, 0, 0]] * 3, [[1, 1, 1]] * 3), 3, rerank=2)
    assert [row["rank"] for row in rows] == [3, 3, 3]


def test_reranking_needs_a_dual_encoder() -> None:
    with pytest.raises(ClipBertError, match=r"rerank_top_k is 2, but this model has no dual encoder.*projection_size"):
        rows_of(TableModel([[0, 0], [0, 0]]), 2, rerank=2)


def test_metrics_of_known_ranks() -> None:
    items = pd.DataFrame({"rank": [1, 2, 10, 40], "gallery": 50, "media": ["a", "a", "b", "c"]})
    assert Retrieval(RetrievalParams()).evaluator.metrics(items) == {
        "retrieval/r1": 25.0,
        "retrieval/r5": 50.0,
        "retrieval/r10": 75.0,
        "retrieval/r50": 100.0,
        "retrieval/median_rank": 6.0,
        "retrieval/mean_rank": 13.25,
        "retrieval/mrr": pytest.approx(100 * (1 + 1 / 2 + 1 / 10 + 1 / 40) / 4),
        "retrieval/ndcg": pytest.approx(100 * sum(1 / np.log2(1 + rank) for rank in (1, 2, 10, 40)) / 4),
        "retrieval/gallery": 50.0,
        "retrieval/queries": 4.0,
    }


def test_chance_is_that_of_the_gallery() -> None:
    items = pd.DataFrame({"gallery": [200, 200]})
    baselines = Retrieval(RetrievalParams()).evaluator.baselines(items, [])
    assert baselines["retrieval/chance_r1"] == 0.5
    assert baselines["retrieval/chance_r10"] == 5.0
    assert baselines["retrieval/chance_median_rank"] == 100.5


def unmatched(similarity: torch.Tensor | None, texts: int, own: list[int], **params: float) -> torch.Tensor:
    task = Retrieval(RetrievalParams.model_validate(params))
    draws = torch.rand(len(own), task.params.negatives, generator=torch.Generator().manual_seed(0)).double()
    return task.objective.draw_negatives(torch.tensor(own), texts, similarity, draws)


def test_negatives_are_other_videos_texts_and_hard_ones_the_likeliest() -> None:
    similarity = torch.zeros(6, 6)
    similarity[3, :] = 50.0  # text 3 looks like every video
    easy = unmatched(similarity, 6, list(range(6)), negatives=2, hard_negatives=0.0)
    assert easy.shape == (6, 2)
    assert not (easy == torch.arange(6)[:, None]).any()
    assert all(a != b for a, b in easy.tolist())
    hard = unmatched(similarity, 6, list(range(6)), negatives=1, hard_negatives=1.0)
    assert hard[[0, 1, 2, 4, 5], 0].tolist() == [3] * 5
    assert hard[3, 0] != 3


def test_each_negative_comes_as_often_as_its_weight_says() -> None:
    similarity = torch.log(torch.tensor([[1.0], [5.0], [1.0], [4.0]]))  # text 1 is the video's own
    task = Retrieval(RetrievalParams(negatives=1, hard_negatives=1.0))
    draws = torch.linspace(0, 0.9999, 600, dtype=torch.float64)[:, None]
    chosen = task.objective.draw_negatives(torch.ones(600, dtype=torch.long), 4, similarity.expand(4, 600), draws)
    assert chosen.flatten().bincount(minlength=4).tolist() == [100, 0, 100, 400]


def test_negatives_are_drawn_from_the_texts_of_all_processes() -> None:
    both = unmatched(None, 4, [0, 1, 2, 3], negatives=3)
    assert [sorted(row) for row in both.tolist()] == [[1, 2, 3], [0, 2, 3], [0, 1, 3], [0, 1, 2]]
    assert unmatched(None, 4, [2, 3], negatives=1).shape == (2, 1)


def test_texts_of_the_same_moment_are_drawn_only_where_no_other_is_left() -> None:
    task = Retrieval(RetrievalParams(negatives=2, hard_negatives=0.5))
    own, draws = torch.arange(4), torch.rand(4, 2, generator=torch.Generator().manual_seed(0)).double()
    same = torch.tensor([[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]).bool()
    chosen = task.objective.draw_negatives(own, 4, torch.zeros(4, 4), draws, same)
    assert [sorted(row) for row in chosen[:2].tolist()] == [[2, 3], [2, 3]]
    nothing_else = task.objective.draw_negatives(own, 4, None, draws, torch.ones(4, 4, dtype=torch.bool))
    assert all(row not in chosen for row, chosen in enumerate(nothing_else.tolist()))


def test_a_batch_of_one_video_has_no_negatives() -> None:
    assert unmatched(None, 1, [0]).shape == (1, 0)


def test_validation_asks_one_caption_a_video() -> None:
    many = Example("v", ["a", "b"], ["x", "y"], ["", ""], ["", ""])
    assert [e.texts for group in Retrieval(RetrievalParams()).evaluator.validation_groups([many]) for e in group] == [
        ["x"]
    ]


def test_validation_galleries_cover_every_example_once() -> None:
    groups = Retrieval(RetrievalParams()).evaluator.validation_groups([example(i) for i in range(103)])
    assert [e.media for group in groups for e in group] == [f"v{i}" for i in range(103)]
    assert {len(group) for group in groups} == {25, 26}


def test_a_split_without_captions_says_what_to_add() -> None:
    texts = pd.DataFrame({"kind": ["open_qa"], "split": ["train"], "media": ["a"], "id": ["q"]})
    with pytest.raises(ClipBertError, match=r"retrieval: the manifest holds no caption texts in split val"):
        make_task("retrieval", Params().tasks).examples.read(texts, "val")


def test_examples_group_the_texts_of_a_video() -> None:
    texts = pd.DataFrame(
        {
            "kind": ["caption"] * 3,
            "split": ["train"] * 3,
            "media": ["b", "a", "b"],
            "id": ["1", "2", "3"],
            "text": ["x", "y", "z"],
            "answer": [None] * 3,
            "answer_type": [None] * 3,
        }
    )
    examples = make_task("retrieval", Params().tasks).examples.read(texts, "train")
    assert [(e.media, e.ids, e.texts) for e in examples] == [("a", ["2"], ["y"]), ("b", ["1", "3"], ["x", "z"])]


@pytest.mark.parametrize("rerank", [None, 2])
def test_a_gallery_of_one_repeated_video_is_scored_once_and_ties_everywhere(rerank: int | None) -> None:
    reranker = TwoStages([[1, 2, 3, 4]] * 4, [[4, 3, 2, 1]] * 4)
    blank = Encoded([f"v{i}" for i in range(4)], [torch.zeros(1, 1, 1)] * 4)
    tokenize = lambda texts: (torch.tensor([[int(text)] for text in texts]), torch.ones(len(texts), 1).long())  # noqa: E731
    evaluator = Retrieval(RetrievalParams()).evaluator.with_settings(EvaluateParams(rerank_top_k=rerank))
    rows = list(evaluator.predict(reranker, blank, [example(i) for i in range(4)], tokenize, 2))
    assert reranker.pairs == 4  # one a text
    assert [row["rank"] for row in rows] == [2.5] * 4
    assert [row["dual_encoder_rank"] for row in rows] == [2.5] * 4
    assert [row["gallery"] for row in rows] == [4] * 4


def test_segments_of_one_video_are_different_items() -> None:
    segments = [Segment(0.0, 4.0), Segment(4.0), None]
    examples = [replace(example(index), media="v", segment=segment) for index, segment in enumerate(segments)]
    videos = Encoded([e.key for e in examples], [torch.full((1, 1, 1), float(i)) for i in range(3)])

    def tokenize(texts: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
        ids = torch.tensor([[int(text)] for text in texts])
        return ids, torch.ones_like(ids)

    model = TableModel([[9, 1, 5], [4, 3, 2], [1, 7, 7]])
    rows = list(Retrieval(RetrievalParams()).evaluator.predict(model, videos, examples, tokenize, 4))
    # text 1 ranks the other segment of its video first; text 2 ties with it
    assert [row["rank"] for row in rows] == [1, 2, 1.5]
    assert [(row["media"], row.get("start_s"), row.get("end_s")) for row in rows] == [
        ("v", 0.0, 4.0),
        ("v", 4.0, None),
        ("v", None, None),
    ]
    assert (rows[1]["top_media"], rows[1]["gallery"]) == (["v", "v", "v"], 3)
    assert (rows[1]["top_start_s"], rows[1]["top_end_s"]) == ([0.0, 4.0, None], [4.0, None, None])


def test_a_validation_gallery_mixes_videos_where_there_are_segments() -> None:
    evaluator = Retrieval(RetrievalParams()).evaluator
    plain = [example(index) for index in range(50)]
    assert [group[0].media for group in evaluator.validation_groups(plain)] == ["v0", "v25"]
    parts = [replace(plain[index // 10], segment=Segment(float(index % 10))) for index in range(50)]
    galleries = evaluator.validation_groups(parts)
    assert [len(gallery) for gallery in galleries] == [25, 25]
    assert all(len({e.media for e in gallery}) == 5 for gallery in galleries)


class DualOnly(TwoStages):
    """A model whose score is the similarity alone."""

    config = ClipBertConfig.tiny(cross_encoder=False)


@pytest.mark.parametrize("rerank", [None, 2])
def test_a_dual_encoder_alone_ranks_texts_in_batches_by_its_similarity(rerank: int | None) -> None:
    table = [[3.0, 1.0, 2.0], [2.0, 2.0, 1.0], [1.0, 5.0, 0.0]]
    model = DualOnly(table, table)
    rows = rows_of(model, 3, rerank=rerank, batch_size=2)
    assert [row["rank"] for row in rows] == [row["dual_encoder_rank"] for row in rows] == [1, 1.5, 3]
    assert rows[0]["top_scores"][:2] == [3.0, 2.0]
    assert model.pairs == 0


def test_a_dual_encoder_alone_is_validated_on_the_whole_split() -> None:
    evaluator = Retrieval(RetrievalParams(cross_encoder=False)).evaluator
    many = Example("v", [str(i) for i in range(20)], [f"text {i}" for i in range(20)], [""] * 20, [""] * 20)
    (group,) = evaluator.validation_groups([replace(many, media=f"v{i}") for i in range(90)])
    assert len(group) == 90
    assert {len(e.texts) for e in group} == {5}
    groups = evaluator.validation_groups([replace(many, media=f"v{i}") for i in range(2001)])
    assert [len(group) for group in groups] == [667, 667, 667]
    assert {len(e.texts) for group in groups for e in group} == {1}
