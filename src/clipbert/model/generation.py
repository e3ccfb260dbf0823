"""Beam search over texts whose every row has several clips; one beam is greedy search."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers.generation import NoRepeatNGramLogitsProcessor


@dataclass(frozen=True)
class Decoding:
    """How a text is searched for.

    `max_length` counts tokens after the start, the end included; of finished and unfinished texts the one with the
    highest log-probability / length ** `length_penalty` wins (0: the most probable, 1: by the mean of its tokens); no
    `no_repeat_ngram` consecutive tokens come twice (0: they may).

    Raises:
        ValueError: naming the field, its value and what is allowed.
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
    """Token ids (B, length) after `start`, and their log-probabilities (B,); see `ClipBertForCaptioning.generate`.

    Each step keeps the best `beams` of all continuations, a finished text standing as it is among them; it stops as
    soon as all that are kept have ended.
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

    cache = model.read_video(visual_embeds)
    _select(cache, torch.arange(videos, device=device).repeat_interleave(beams), clips)
    texts = torch.full((videos * beams, 1), start, dtype=torch.long, device=device)
    totals = torch.full((videos, beams), float("-inf"), device=device)
    totals[:, 0] = 0  # all beams start alike: only the first counts
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
    """Keep these texts' rows of a cache, each text having `clips` rows."""
    cache.batch_select_indices((rows[:, None] * clips + torch.arange(clips, device=rows.device)).flatten())
