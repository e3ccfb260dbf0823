"""Masked tokens: the shares of BERT, never a special token or padding, the same draw twice."""

import numpy as np
import pytest
import torch

from clipbert.errors import ClipBertError
from clipbert.model import ClipBertProcessor
from clipbert.model.losses import IGNORED
from clipbert.tasks.masking import SpecialTokens, choose, mask
from clipbert.tasks.predict import ProcessorTokens

SPECIAL = SpecialTokens(4, (0, 1, 2, 3, 4))
LENGTH = 20_000


def text() -> torch.Tensor:
    ids = torch.full((LENGTH,), 50)
    ids[0], ids[-2], ids[-1], ids[7] = 2, 3, 0, 1
    return ids


def test_the_special_tokens_are_read_off_the_tokenizer() -> None:
    tokenizer = ClipBertProcessor.train_tokenizer(["a red square"], vocab_size=64)
    found = SpecialTokens.of(ProcessorTokens(ClipBertProcessor(tokenizer), torch.device("cpu")), tokenizer.pad_token_id)
    assert found.mask == tokenizer.mask_token_id
    assert found.all == tuple(sorted(tokenizer.all_special_ids))


def test_a_tokenizer_without_a_mask_is_said() -> None:
    def tokenize(texts: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.arange(7)[None], torch.ones(1, 7, dtype=torch.long)

    with pytest.raises(ClipBertError, match=r"splits \[MASK\] \[UNK\] into 5 tokens"):
        SpecialTokens.of(tokenize, 0)


def test_fifteen_percent_are_chosen_and_of_them_80_10_10() -> None:
    seen, told = mask(text(), SPECIAL, 1000, 0.15, np.random.default_rng(0))
    chosen = told != IGNORED
    assert chosen.float().mean().item() == pytest.approx(0.15, abs=0.01)
    assert set(told[chosen].tolist()) == {50}
    fates = seen[chosen]
    assert (fates == 4).float().mean().item() == pytest.approx(0.8, abs=0.03)
    assert (fates == 50).float().mean().item() == pytest.approx(0.1, abs=0.03)
    other = fates[(fates != 4) & (fates != 50)]
    assert len(other.unique()) > 100
    assert other.min() > 4
    assert torch.equal(seen[~chosen], text()[~chosen])


def test_special_tokens_and_padding_are_never_chosen() -> None:
    chosen = choose(text(), SPECIAL, 1.0, np.random.default_rng(0))
    assert (~chosen).nonzero().flatten().tolist() == [0, 7, LENGTH - 2, LENGTH - 1]


def test_a_short_text_has_one_token_to_tell_and_one_without_words_none() -> None:
    short = torch.tensor([2, 50, 60, 3, 0])
    assert all(choose(short, SPECIAL, 0.0, np.random.default_rng(seed))[1:3].sum() == 1 for seed in range(20))
    assert not choose(torch.tensor([2, 1, 3, 0]), SPECIAL, 1.0, np.random.default_rng(0)).any()


def test_the_same_seed_masks_the_same() -> None:
    first, again, other = (mask(text(), SPECIAL, 1000, 0.15, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0], other[0])
