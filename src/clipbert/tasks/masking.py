"""Masking for masked language modeling: the tokens to predict, and what replaces them (BERT, Devlin et al. 2019)."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from clipbert.errors import ClipBertError
from clipbert.model.losses import IGNORED
from clipbert.tasks.batch import Tokenize

MASKED, RANDOM = 0.8, 0.1  # of the chosen tokens; the rest stay as they are


@dataclass(frozen=True)
class SpecialTokens:
    """The id of [MASK], and the ids that are never masked: padding, [CLS], [SEP], [UNK] and [MASK]."""

    mask: int
    all: tuple[int, ...]

    @classmethod
    def of(cls, tokenize: Tokenize, pad: int | None) -> "SpecialTokens":
        """Return the ids of a tokenizer.

        Raises:
            ClipBertError: the tokenizer has no [MASK] token.
        """
        input_ids, attention_mask = tokenize(["[MASK] [UNK]"])
        ids = input_ids[0][attention_mask[0] == 1].tolist()
        if len(ids) != 4:
            raise ClipBertError(
                f"pretrain: the tokenizer splits [MASK] [UNK] into {len(ids) - 2} tokens; expected BERT's two "
                "special tokens. Start from a model whose tokenizer has them."
            )
        return cls(ids[1], tuple(sorted({*ids, 0 if pad is None else pad})))


def choose(input_ids: Tensor, special: SpecialTokens, probability: float, generator: np.random.Generator) -> Tensor:
    """Return which tokens of one text (L,) to predict, True where chosen: each with `probability`, at least one."""
    ordinary = ~torch.isin(input_ids, torch.tensor(special.all, device=input_ids.device))
    draws = torch.from_numpy(generator.random(len(input_ids))).to(input_ids.device)
    chosen = ordinary & (draws < probability)
    if ordinary.any() and not chosen.any():
        chosen[draws.masked_fill(~ordinary, 1.0).argmin()] = True
    return chosen


def mask(
    input_ids: Tensor, special: SpecialTokens, vocab_size: int, probability: float, generator: np.random.Generator
) -> tuple[Tensor, Tensor]:
    """Return the masked input of one text (L,), and the ids to predict, -100 elsewhere.

    Of the chosen tokens 80 % become [MASK], 10 % another token of the vocabulary, 10 % stay.
    """
    chosen = choose(input_ids, special, probability, generator)
    fates = torch.from_numpy(generator.random(len(input_ids)))
    others = np.setdiff1d(np.arange(vocab_size), special.all)
    random = torch.from_numpy(generator.choice(others, len(input_ids)))
    seen = torch.where(chosen & (fates < MASKED), special.mask, input_ids)
    seen = torch.where(chosen & (fates >= MASKED) & (fates < MASKED + RANDOM), random, seen)
    return seen, torch.where(chosen, input_ids, IGNORED)
