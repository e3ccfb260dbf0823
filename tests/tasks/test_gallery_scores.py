"""Scores of texts with videos in blocks: bounded sizes, order, and continuation after a kill."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from clipbert.model import ClipBertConfig
from clipbert.tasks import gallery_scores
from clipbert.tasks.batch import Encoded
from clipbert.tasks.gallery_scores import NOT_RERANKED, GalleryScores, rank_in_row, text_blocks
from clipbert.tasks.score_store import ScoreStore

VIDEOS, TEXTS = 5, 12
SCORES = np.random.default_rng(0).normal(size=(TEXTS, VIDEOS)).astype(np.float32)
SIMILARITY = np.random.default_rng(1).normal(size=(TEXTS, VIDEOS)).astype(np.float32)
LENGTHS = [3, 1, 2, 3, 1, 2, 3, 1, 2, 3, 1, 2]
OWNERS = np.arange(TEXTS) % VIDEOS


class Table:
    """A model whose scores and similarities come from tables; it keeps the size of each pass and can be stopped."""

    contrast = None
    config = ClipBertConfig.tiny()

    def __init__(self, stop_after: int = 10**6) -> None:
        self.passes: list[int] = []
        self.stop_after = stop_after

    def __call__(self, visual_embeds: torch.Tensor, input_ids: torch.Tensor, **rest: Any) -> Any:
        if len(self.passes) == self.stop_after:
            raise KeyboardInterrupt
        self.passes.append(len(input_ids))
        self.logits = torch.from_numpy(SCORES)[input_ids[:, 0], visual_embeds[:, 0, 0, 0].long()][:, None]
        return self

    def match_scores(self, logits: torch.Tensor) -> torch.Tensor:
        return logits[:, 0]


class TwoStages(Table):
    """The same with a dual encoder."""

    contrast = True

    def get_text_features(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        return input_ids[:, :1].float()

    def get_video_features(self, visual_embeds: torch.Tensor) -> torch.Tensor:
        return visual_embeds[:, 0, 0]

    def similarity(self, text: torch.Tensor, video: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(SIMILARITY)[text[:, 0].long()][:, video[:, 0].long()]


def tokenize(texts: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
    numbers = [int(text) for text in texts]
    ids = torch.tensor([[number] * 3 for number in numbers])
    mask = torch.tensor([[int(column < LENGTHS[number]) for column in range(3)] for number in numbers])
    return ids, mask


def scores_of(model: Any, store: ScoreStore | None = None, rerank: int | None = None) -> GalleryScores:
    keys = [f"v{i}" for i in range(VIDEOS)]
    videos = Encoded(keys, [torch.full((1, 1, 1), float(i)) for i in range(VIDEOS)])
    texts = [str(text) for text in range(TEXTS)]
    return GalleryScores(model, videos, keys, texts, OWNERS, tokenize, 4, rerank, store=store)  # type: ignore[arg-type]


def matrix(blocks: Any) -> np.ndarray:
    found = np.full((TEXTS, VIDEOS), np.nan, dtype=np.float32)
    for block in blocks:
        found[block.texts] = block.scores
    return found


def test_blocks_hold_each_text_once_short_ones_first_and_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    lengths = np.random.default_rng(0).integers(3, 30, 1000)
    for gallery, pairs, batch_size in ((7, 7, 4), (10**5, 50, 256), (10**7, 10**7, 256), (3, 3, 10**6)):
        blocks = text_blocks(lengths, gallery, pairs, batch_size)
        order = np.concatenate(blocks)
        assert sorted(order.tolist()) == list(range(1000))
        assert (np.diff(lengths[order]) >= 0).all()
        assert max(map(len, blocks)) * gallery <= max(gallery_scores.MAX_BLOCK_SCORES, gallery)
        assert max(map(len, blocks)) <= gallery_scores.MAX_BLOCK_TEXTS
    monkeypatch.setattr(gallery_scores, "MAX_BLOCK_SCORES", 2 * VIDEOS)
    model = Table()
    blocks_seen = list(scores_of(model).blocks())
    assert [block.scores.shape for block in blocks_seen] == [(2, VIDEOS)] * 6
    assert max(model.passes) <= 4  # evaluate.batch_size
    assert sum(model.passes) == TEXTS * VIDEOS
    np.testing.assert_array_equal(matrix(blocks_seen), SCORES)


def test_the_cross_encoder_scores_only_the_most_similar_videos() -> None:
    model = TwoStages()
    found = matrix(scores_of(model, rerank=2).blocks())
    best = np.argsort(-SIMILARITY, axis=1)[:, :2]
    kept = np.zeros_like(found, dtype=bool)
    np.put_along_axis(kept, best, True, axis=1)
    np.testing.assert_allclose(found, np.where(kept, SCORES + SIMILARITY, NOT_RERANKED), rtol=1e-6)
    assert sum(model.passes) == 2 * TEXTS
    for text in range(TEXTS):  # by brute force: reranked videos by their scores, then the others by similarity
        others = [v for v in np.argsort(-SIMILARITY[text]) if not kept[text, v]]
        order = [*sorted(best[text], key=lambda video: -found[text, video]), *others]
        assert rank_in_row(found[text], SIMILARITY[text], OWNERS[text]) == order.index(OWNERS[text]) + 1


def test_a_killed_evaluation_scores_only_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gallery_scores, "MAX_BLOCK_TEXTS", 3)
    whole = matrix(scores_of(TwoStages()).blocks())
    killed = TwoStages(stop_after=9)  # four passes for a block of 15 pairs
    with pytest.raises(KeyboardInterrupt):
        list(scores_of(killed, ScoreStore(tmp_path / "scores", {"model": "a"})).blocks())
    store = ScoreStore(tmp_path / "scores", {"model": "a"})
    assert store.finished() == [0, 1]
    model = TwoStages()
    resumed = scores_of(model, store)
    np.testing.assert_array_equal(matrix(resumed.blocks()), whole)
    assert sum(model.passes) == TEXTS * VIDEOS - 2 * 15
    np.testing.assert_array_equal(matrix(resumed.stored_blocks()), whole)
    store.clear()
    assert not (tmp_path / "scores").exists()


def test_damaged_and_foreign_scores_are_never_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(gallery_scores, "MAX_BLOCK_TEXTS", 3)
    folder = tmp_path / "scores"
    list(scores_of(Table(), ScoreStore(folder, {"model": "a"})).blocks())
    files = sorted(folder.glob("*.safetensors"))
    content = bytearray(files[1].read_bytes())
    content[-1] ^= 1
    files[1].write_bytes(content)
    files[2].write_bytes(files[2].read_bytes()[:-3])
    store = ScoreStore(folder, {"model": "a"})
    assert store.finished() == [0, 3]
    said = capsys.readouterr().out
    assert f"{files[1]}: damaged (its content does not match its checksum); its texts are scored again." in said
    assert f"{files[2]}: damaged (" in said
    np.testing.assert_array_equal(matrix(scores_of(Table(), store).blocks()), SCORES)
    # a block of another evaluation, copied into the folder, does not name this one
    other = ScoreStore(tmp_path / "other", {"model": "b"})
    other.write(0, {"texts": np.arange(3), "scores": np.zeros((3, VIDEOS), dtype=np.float32)})
    files[0].write_bytes((tmp_path / "other" / files[0].name).read_bytes())
    assert ScoreStore(folder, {"model": "a"}).finished() == [1, 2, 3]
    assert ScoreStore(folder, {"model": "b"}).finished() == []
    assert list(folder.glob("*.safetensors")) == []
