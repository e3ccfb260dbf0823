"""Beam search for texts with several clips per cache row; one beam is greedy search."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers.generation import NoRepeatNGramLogitsProcessor


@dataclass(frozen=True)
class Decoding:
    """Settings of the search for a text.

    Attributes:
        beams: number of candidates kept; 1 is greedy search.
        max_length: number of tokens after the start token, the end token included.
        length_penalty: the text with the highest log-probability / length ** `length_penalty` wins; 0 compares
            log-probabilities, 1 their means over the tokens.
        no_repeat_ngram: no sequence of this many tokens occurs twice; 0: no limit.

    Raises:
        ValueError: naming the field, its value and what was expected.
    """

    beams: int = 1
    max_length: int = 32
    length_penalty: float = 1.0
    no_repeat_ngram: int = 0

    def __post_init__(self) -> None:
        for name, least in (("beams", 1), ("max_length", 1), ("length_penalty", 0), ("no_repeat_ngram", 0)):
            if not getattr(self, name) >= least:
                raise ValueError(f"{name} is {getattr(self, name)!r}: expected {least} or more.")


def generate(model: Any, visual_embeds: Tensor, start: int, end: int, decoding: Decoding) -> tuple[Tensor, Tensor]:
    """Return token ids (B, length) after `start` and their log-probabilities (B,).

    Each step keeps the best `beams` of all continuations and finished texts; the search stops when all that are kept
    are finished. Arguments as in `ClipBertForCaptioning.generate`.
    """
    config = model.config
    if decoding.max_length > config.max_position_embeddings:
        raise ValueError(
            f"max_length is {decoding.max_length}: expected at most {config.max_position_embeddings}, "
            "config.max_position_embeddings."
        )
    for name, token in (("start", start), ("end", end)):
        if not 0 <= token < config.vocab_size:
            raise ValueError(f"{name} is {token}: expected a token from 0 to {config.vocab_size - 1}.")
    videos, clips = visual_embeds.shape[:2]
    beams, device = decoding.beams, visual_embeds.device
    pad = config.pad_token_id if config.pad_token_id is not None else end
    forbidden = [token for token in {pad, start} if token != end]
    repeats = NoRepeatNGramLogitsProcessor(decoding.no_repeat_ngram) if decoding.no_repeat_ngram else None

    cache = model.prefill(visual_embeds)
    _select(cache, torch.arange(videos, device=device).repeat_interleave(beams), clips)
    texts = torch.full((videos * beams, 1), start, dtype=torch.long, device=device)
    totals = torch.full((videos, beams), float("-inf"), device=device)
    totals[:, 0] = 0  # all beams start equal, so only the first counts
    lengths = torch.zeros(videos, beams, device=device)
    ended = torch.zeros(videos, beams, dtype=torch.bool, device=device)
    first = torch.arange(videos, device=device)[:, None] * beams
    for position in range(decoding.max_length):
        following = model.next_token_log_probs(texts[:, -1], position, cache, clips)
        totals = totals.to(following.dtype)
        following[:, forbidden] = float("-inf")
        if repeats is not None:
            following = repeats(texts, following)
        following = following.view(videos, beams, -1)
        following[ended] = float("-inf")
        following[..., pad] = torch.where(ended, 0.0, following[..., pad])
        candidates = totals[..., None] + following
        new_lengths = lengths + (~ended).to(lengths.dtype)
        ranked = candidates / new_lengths[..., None] ** decoding.length_penalty
        best = ranked.flatten(1).topk(beams, dim=1).indices
        beam, token = best // config.vocab_size, best % config.vocab_size
        totals = candidates.flatten(1).gather(1, best)
        lengths, ended = new_lengths.gather(1, beam), ended.gather(1, beam)
        rows = (first + beam).flatten()
        texts = torch.cat([texts[rows], token.view(-1, 1)], dim=1)
        ended = ended | (token == end)
        if bool(ended.all()):
            break
        if beams > 1:
            _select(cache, rows, clips)
    scores = totals / lengths**decoding.length_penalty
    winner = scores.argmax(dim=1, keepdim=True)
    found = texts.view(videos, beams, -1)[torch.arange(videos, device=device), winner[:, 0], 1:]
    return found, totals.gather(1, winner)[:, 0]


def _select(cache: Any, rows: Tensor, clips: int) -> None:
    """Select the cache rows of these texts, `clips` rows per text."""
    cache.batch_select_indices((rows[:, None] * clips + torch.arange(clips, device=rows.device)).flatten())
