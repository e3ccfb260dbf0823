"""Packed sequences: nothing is lost, nothing sees its neighbor, and both towers are what they are alone."""

import pytest
import torch

from clipbert.model import ClipBertConfig, ClipBertForRetrieval
from clipbert.model.packing import PackedPairs, Packing


def test_the_longest_go_first_each_where_it_leaves_the_least_room() -> None:
    packing = Packing.from_lengths([3, 7, 5, 3, 6], torch.device("cpu"))
    one, two, three, four = [1] * 7 + [-1], [4] * 6 + [-1] * 2, [2] * 5 + [0] * 3, [3] * 3 + [-1] * 5
    assert packing.sequences.tolist() == [one, two, three, four]
    assert packing.slots.tolist() == [21, 22, 23, *range(7), *range(16, 21), 24, 25, 26, *range(8, 14)]
    tokens = torch.arange(1, 25)[:, None].double()
    rows = packing.pack(tokens)
    assert rows.shape == (4, 8, 1)
    assert rows[1, :, 0].tolist() == [19, 20, 21, 22, 23, 24, 0, 0]
    assert torch.equal(packing.unpack(rows), tokens)
    assert packing.mask().shape == (4, 1, 8, 8)
    assert packing.mask()[2, 0].int().tolist() == [[1] * 5 + [0] * 3] * 5 + [[0] * 5 + [1] * 3] * 3


def test_equal_lengths_have_a_row_each_and_no_mask() -> None:
    packing = Packing.from_lengths([5, 5, 5], torch.device("cpu"))
    assert packing.sequences.tolist() == [[0] * 5, [1] * 5, [2] * 5]
    assert packing.mask() is None


def test_a_text_s_tokens_attend_to_the_visual_ones_and_to_those_before_them() -> None:
    mask = torch.tensor([[1, 1, 1], [1, 1, 0]])
    pairs = PackedPairs.of([3, 2], mask, clips=1, tokens=2, exact=True, visual_first=True)
    assert pairs.packing.sequences.tolist() == [[0] * 5 + [-1] * 3, [1] * 4 + [-1] * 4]
    triangle = [[1, 1, 0, 0, 0], [1, 1, 0, 0, 0], [1, 1, 1, 0, 0], [1, 1, 1, 1, 0], [1, 1, 1, 1, 1]]
    assert pairs.mask()[0, 0, :5, :5].int().tolist() == triangle
    assert not pairs.mask()[0, 0, :5, 5:].any()


def test_upper_bounds_of_lengths_hide_the_padding_under_them() -> None:
    mask = torch.tensor([[1, 1, 1, 0], [1, 1, 0, 0]])
    pairs = PackedPairs.of([3, 4], mask, clips=1, tokens=1, exact=False)
    assert pairs.packing.sequences.tolist() == [[1, 1, -1, -1, 1, -1, -1, -1], [0] * 4 + [-1] * 4]


def model(attention: str = "sdpa") -> ClipBertForRetrieval:
    torch.manual_seed(0)
    config = ClipBertConfig.tiny(vocab_size=64, initializer_range=0.2, hidden_dropout_prob=0.0)
    return ClipBertForRetrieval._from_config(config, attn_implementation=attention).double()


def texts(lengths: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
    mask = (torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]).long()
    ids = torch.randint(5, 64, mask.shape, generator=torch.Generator().manual_seed(1))
    return ids * mask, mask


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_one_pass_gives_what_each_tower_gives_alone(attention: str, monkeypatch: pytest.MonkeyPatch) -> None:
    judge = model(attention)
    ids, mask = texts([24, 3, 9, 5])
    visual = torch.randn(4, 2, 9, 128, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    ways = []
    for packed in (False, True):
        given = visual.clone().requires_grad_()
        judge.zero_grad()
        alone = judge.get_text_features(ids, mask), judge.get_video_features(given)
        text, video = alone
        if packed:
            with monkeypatch.context() as patch:
                patch.setattr(ClipBertForRetrieval, "get_text_features", None)  # so that the one pass is what is seen
                text, video = judge.get_text_and_video_features(ids, mask, given)
        judge.similarity(text, video).square().sum().backward()
        gradients = {name: value.grad for name, value in judge.named_parameters() if value.grad is not None}
        ways.append({"text": text, "video": video, "visual": given.grad, **gradients})
    assert "clipbert.embeddings.position_embeddings.weight" in ways[0]
    assert ways[0].keys() == ways[1].keys()
    for name, expected in ways[0].items():
        torch.testing.assert_close(ways[1][name], expected, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("lengths", [[24, 3, 9, 5], [7, 7, 7, 7]])
def test_packed_pairs_have_fewer_tokens(attention: str, lengths: list[int]) -> None:
    judge = model(attention).eval()
    ids, mask = texts(lengths)
    padded = torch.nn.functional.pad(ids, (0, 8)), torch.nn.functional.pad(mask, (0, 8))
    visual = torch.randn(2, 3, 9, 128, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    given = {"input_ids": padded[0], "attention_mask": padded[1], "visual_embeds": visual}
    given["texts_per_video"] = torch.tensor([1, 3])
    widths: list[int] = []
    judge.clipbert.encoder.register_forward_pre_hook(lambda module, args: widths.append(args[0].shape[:2].numel()))
    found = judge(**given).clip_logits
    assert found.shape == (4, 3, 2)
    assert widths[0] < 0.9 * 4 * 3 * (max(lengths) + 8 + 9)
    # a text whose first position is padding has no packed form
    judge(**given | {"input_ids": padded[0].flip(1), "attention_mask": padded[1].flip(1)})
    assert widths[1] == 4 * 3 * (max(lengths) + 8 + 9)


def test_padding_in_front_and_a_mask_left_out() -> None:
    judge = model().eval()
    ids, mask = texts([24, 3, 9, 5])
    visual = torch.randn(4, 1, 9, 128, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    for some in (mask, mask.flip(1), None):
        text, video = judge.get_text_and_video_features(ids, some, visual)
        torch.testing.assert_close(text, judge.get_text_features(ids, some), rtol=1e-8, atol=1e-10)
        torch.testing.assert_close(video, judge.get_video_features(visual), rtol=1e-8, atol=1e-10)


def test_where_packing_saves_nothing_the_towers_run_alone() -> None:
    judge = model().eval()
    ids, mask = texts([8, 8])
    visual = torch.randn(2, 1, 9, 128, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    text, video = judge.get_text_and_video_features(ids, mask, visual)
    assert torch.equal(text, judge.get_text_features(ids, mask))
    assert torch.equal(video, judge.get_video_features(visual))


def test_a_model_without_towers_says_so() -> None:
    judge = ClipBertForRetrieval(ClipBertConfig.tiny(vocab_size=64, projection_size=None))
    with pytest.raises(ValueError, match="projection_size is None"):
        judge.get_text_and_video_features(*texts([3]), torch.zeros(1, 1, 9, 128))
