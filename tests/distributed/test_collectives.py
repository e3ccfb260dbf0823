"""The contrastive loss over the texts and videos of all ranks, in two real processes."""

from dataclasses import replace
from typing import Any

import contrast_ranks
import pytest
import torch
import torch.nn.functional as F
from contrast_ranks import CASES, computed, joined, model
from forked_python import ForkedProgram

from clipbert.distributed.collectives import RankRows, scale_loss_for_ddp
from clipbert.model.losses import symmetric_contrastive_loss

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """Results of two processes for each case."""
    folder = tmp_path_factory.mktemp("ranks")
    outs = [folder / f"{rank}.pt" for rank in range(2)]
    started = [
        ForkedProgram([contrast_ranks.__file__, str(rank), str(folder / "store"), str(out)])
        for rank, out in enumerate(outs)
    ]
    try:
        assert [process.wait(timeout=120) for process in started] == [0, 0]
    finally:
        for process in started:
            process.kill()
    return [torch.load(out, weights_only=True) for out in outs]


@pytest.mark.parametrize("name", CASES)
def test_two_ranks_have_the_loss_and_gradient_of_one_process(ranks: list[dict[str, Any]], name: str) -> None:
    case = CASES[name]
    whole = computed(replace(case, parts=1), slice(None))
    assert "contrast.logit_scale" in whole["gradients"]
    assert any(".vision." in parameter for parameter in whole["gradients"])
    for rank, seen in enumerate(ranks):
        rows = case.rows(rank)
        torch.testing.assert_close(seen[name]["loss"], whole["loss"], rtol=1e-5, atol=0)
        torch.testing.assert_close(seen[name]["similarity"], whole["similarity"][:, rows], rtol=1e-5, atol=0)
        assert seen[name]["gradients"].keys() == whole["gradients"].keys()
    for parameter, expected in whole["gradients"].items():
        mean = sum(seen[name]["gradients"][parameter] for seen in ranks) / len(ranks)
        torch.testing.assert_close(mean, expected, rtol=1e-5, atol=1e-10)


def test_a_rank_alone_would_have_learned_something_else(ranks: list[dict[str, Any]]) -> None:
    alone = computed(CASES["even"], CASES["even"].rows(0))
    assert not torch.isclose(alone["loss"], ranks[0]["even"]["loss"], rtol=1e-3)


def test_without_a_group_the_loss_is_bit_for_bit_that_of_the_batch() -> None:
    case = CASES["even"]
    seen = computed(case, slice(None))
    judge, some = model(), joined(4)
    visual_embeds = judge.encode_video(some["pixel_values"])
    similarity = judge.similarity(
        *judge.get_text_and_video_features(some["input_ids"], some["attention_mask"], visual_embeds)
    )
    truth = torch.arange(4)
    loss = (F.cross_entropy(similarity, truth) + F.cross_entropy(similarity.T, truth)) / 2
    loss.backward()
    assert torch.equal(seen["loss"], loss.detach())
    assert torch.equal(seen["similarity"], similarity.detach())
    for name, value in judge.named_parameters():
        assert value.grad is None or torch.equal(seen["gradients"][name], value.grad)


def test_rows_alone_are_the_very_tensor() -> None:
    rows = torch.ones(3, 2)
    ranks = RankRows((3,))
    assert ranks.own == slice(None)
    assert ranks.gather(rows) is rows
    assert scale_loss_for_ddp(rows, 3) is rows


def test_a_video_that_comes_twice_is_no_negative_of_itself() -> None:
    similarity = torch.tensor([[2.0, 0.0, 9.0], [1.0, 3.0, 0.0], [9.0, 1.0, 4.0]])
    videos = torch.tensor([7, 8, 7])
    loss = symmetric_contrastive_loss(similarity, videos[:, None] == videos[None, :])
    first, second, third = torch.tensor([2.0, 0.0]), torch.tensor([1.0, 3.0, 0.0]), torch.tensor([1.0, 4.0])
    of_texts = [first[0] - first.logsumexp(0), second[1] - second.logsumexp(0), third[1] - third.logsumexp(0)]
    columns = [torch.tensor([2.0, 1.0]), torch.tensor([0.0, 3.0, 1.0]), torch.tensor([0.0, 4.0])]
    of_videos = [row[i] - row.logsumexp(0) for row, i in zip(columns, (0, 1, 1), strict=True)]
    torch.testing.assert_close(loss, -(sum(of_texts) / 3 + sum(of_videos) / 3) / 2)


def test_different_videos_change_nothing() -> None:
    similarity = torch.randn(5, 5, generator=torch.Generator().manual_seed(0))
    same = torch.eye(5, dtype=torch.bool)
    assert torch.equal(symmetric_contrastive_loss(similarity, same), symmetric_contrastive_loss(similarity))
