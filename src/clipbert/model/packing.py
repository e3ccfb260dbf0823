"""Sequence packing: several sequences share a row, with little padding and without attending to each other.

Which sequence goes to which row is decided on the host, from lengths that are known there. So no step waits for a GPU,
as long as the lengths travel with the batch (`Batch.text_lengths`).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

ROW_MULTIPLE = 8  # tokens: attention kernels of a GPU want masks whose rows are aligned


@dataclass(frozen=True)
class Packing:
    """Positions of the tokens of S sequences in R rows of W tokens.

    Attributes:
        slots: (tokens,) position of each token in the flattened rows.
        sequences: (R, W) index of the sequence that a position belongs to; -1 at padding.
        one_per_row: whether each row is exactly one sequence, so that no mask is needed.
    """

    slots: Tensor
    sequences: Tensor
    one_per_row: bool = False

    @classmethod
    @torch.compiler.disable
    def from_lengths(cls, lengths: list[int], device: torch.device) -> "Packing":
        """Pack sequences into rows; tokens are ordered sequence by sequence."""
        starts, rows, width = pack_rows(lengths)
        counts = np.asarray(lengths)
        slots = np.repeat(starts, counts) + _within(counts)
        return cls.from_slots(slots, np.repeat(np.arange(len(counts)), counts), (rows, width), len(counts), device)

    @classmethod
    def from_slots(
        cls,
        slots: NDArray[np.int64],
        owner: NDArray[np.int64],
        shape: tuple[int, int],
        count: int,
        device: torch.device,
    ) -> "Packing":
        """Return the packing of tokens at known positions.

        Args:
            slots: (tokens,).
            owner: (tokens,) the sequence of each token.
            shape: (R, W).
            count: number of sequences.
        """
        sequences = np.full(shape[0] * shape[1], -1, dtype=np.int64)
        sequences[slots] = owner
        one_per_row = shape[0] == count and len(slots) == len(sequences)
        return cls(to_device(slots, device), to_device(sequences.reshape(shape), device), one_per_row)

    def without(self, slots: Tensor, hidden: Tensor) -> "Packing":
        """Return the packing with the tokens at `slots` (n,) turned into padding where `hidden` (n,) is true."""
        flat = self.sequences.flatten()
        kept = flat.index_select(0, slots).masked_fill(hidden, -1)
        sequences = flat.index_copy(0, slots, kept).view(self.sequences.shape)
        return replace(self, sequences=sequences, one_per_row=False)

    def pack(self, tokens: Tensor) -> Tensor:
        """Return rows (R, W, hidden) of tokens (tokens, hidden), zero at padding."""
        rows = tokens.new_zeros(self.sequences.numel(), tokens.shape[-1]).index_copy(0, self.slots, tokens)
        return rows.view(*self.sequences.shape, -1)

    def unpack(self, rows: Tensor) -> Tensor:
        """Return tokens (tokens, hidden) of rows (R, W, hidden)."""
        return rows.flatten(0, 1).index_select(0, self.slots)

    def mask(self, prefix: Tensor | None = None) -> Tensor | None:
        """Return the attention mask (R, 1, W, W), true within a sequence; None where no row needs one.

        Args:
            prefix: (R, W), true at the tokens that all of their sequence attend to; other tokens are attended to from
                their own position on. None: all of a sequence attend to all of it.
        """
        if self.one_per_row and prefix is None:
            return None
        same = self.sequences[:, None, :, None] == self.sequences[:, None, None, :]
        if prefix is None:
            return same
        columns = torch.arange(prefix.shape[1], device=prefix.device)
        return same & (prefix[:, None, None, :] | (columns <= columns[:, None]))


@dataclass(frozen=True)
class TextTokens:
    """Positions of the tokens of N texts in `input_ids` (N, L).

    Attributes:
        flat: (T,) in the flattened `input_ids`.
        columns: (T,) the column, which is the position of the token in its text.
        exact: whether the lengths are those of the texts, not upper bounds of them.
    """

    flat: Tensor
    columns: Tensor
    exact: bool

    @classmethod
    @torch.compiler.disable
    def of(cls, lengths: Sequence[int], width: int, device: torch.device, exact: bool) -> "TextTokens":
        """Return the positions of the first `lengths` tokens of each text, of `width` columns."""
        counts = np.asarray(lengths)
        columns = _within(counts)
        flat = np.repeat(np.arange(len(counts)) * width, counts) + columns
        return cls(to_device(flat, device), to_device(columns, device), exact)

    def hidden(self, attention_mask: Tensor) -> Tensor:
        """Return which of the tokens are padding (T,), under a mask (N, L)."""
        return attention_mask.flatten().index_select(0, self.flat) == 0

    def scatter(self, tokens: Tensor, shape: tuple[int, int]) -> Tensor:
        """Return tokens (T, ...) as (N, L, ...), zero elsewhere; `shape` is (N, L)."""
        padded = tokens.new_zeros(shape[0] * shape[1], *tokens.shape[1:]).index_copy(0, self.flat, tokens)
        return padded.view(*shape, *tokens.shape[1:])


@dataclass(frozen=True)
class PackedPairs:
    """Rows of the sequences of N texts, each with the V visual tokens of K clips; sequence n * K + k is (n, k).

    Attributes:
        text: the texts' tokens, T in all.
        packing: of T * K text tokens, clip by clip within a token, then of N * K * V visual tokens.
        queries: (R, Q) column of each text's first token in its row, in any order; 0 where a row has fewer texts.
        query: (N * K,) position of each sequence in the flattened `queries`.
        prefix: (R, W), true at visual tokens, where these come before the text; None where the text comes first.
    """

    text: TextTokens
    packing: Packing
    queries: Tensor
    query: Tensor
    prefix: Tensor | None

    @classmethod
    @torch.compiler.disable
    def of(
        cls,
        lengths: Sequence[int],
        attention_mask: Tensor,
        clips: int,
        tokens: int,
        exact: bool,
        visual_first: bool = False,
    ) -> "PackedPairs":
        """Return the rows of texts under a mask (N, L).

        Args:
            lengths: of the N texts, or upper bounds of them.
            clips: K, of each text.
            tokens: V, of each clip.
            exact: whether `lengths` are exact.
            visual_first: whether a clip's tokens come before the text and do not attend to it.
        """
        device, counts = attention_mask.device, np.asarray(lengths)
        text = TextTokens.of(lengths, attention_mask.shape[1], device, exact)
        each = np.repeat(counts + tokens, clips)
        starts, rows, width = pack_rows(each.tolist())
        by_text = starts.reshape(len(counts), clips)
        offset_text, offset_visual = (tokens, np.zeros_like(counts)) if visual_first else (0, counts)
        text_slots = np.repeat(by_text, counts, axis=0) + offset_text + _within(counts)[:, None]
        visual_slots = (by_text + offset_visual[:, None])[..., None] + np.arange(tokens)
        slots = np.concatenate([text_slots.ravel(), visual_slots.ravel()])
        sequence = np.arange(len(each)).reshape(by_text.shape)
        owner = np.concatenate([np.repeat(sequence, counts, axis=0).ravel(), np.repeat(sequence.ravel(), tokens)])
        packing = Packing.from_slots(slots, owner, (rows, width), len(each), device)
        if not exact:
            hidden = text.hidden(attention_mask)[:, None].expand(-1, clips).flatten()
            packing = packing.without(to_device(text_slots.ravel(), device), hidden)
        prefix = None
        if visual_first:
            seen = np.zeros(rows * width, dtype=bool)
            seen[visual_slots.ravel()] = True
            prefix = to_device(seen.reshape(rows, width), device)
        first = starts + offset_text
        queries, query = _queries(first, rows, width)
        return cls(text, packing, to_device(queries, device), to_device(query, device), prefix)

    def pack(self, text: Tensor, visual: Tensor) -> Tensor:
        """Return rows (R, W, hidden) of text tokens (T, hidden) and of visual tokens (N, K, V, hidden)."""
        clips = visual.shape[1]
        return self.packing.pack(torch.cat([text.repeat_interleave(clips, dim=0), visual.flatten(0, 2)]))

    def mask(self) -> Tensor | None:
        """Return the attention mask (R, 1, W, W); None where no row needs one."""
        return self.packing.mask(self.prefix)

    def text_states(self, rows: Tensor, clips: int) -> Tensor:
        """Return the states (T, K, hidden) of the texts' tokens from those of the rows (R, W, hidden)."""
        slots = self.packing.slots[: len(self.text.flat) * clips]
        return rows.flatten(0, 1).index_select(0, slots).unflatten(0, (-1, clips))


def pack_rows(lengths: Sequence[int]) -> tuple[NDArray[np.int64], int, int]:
    """Assign sequences to rows as wide as the longest one: best fit, in order of decreasing length.

    Returns:
        the position (S,) of each sequence's first token in the flattened rows, the number of rows, and their width; it
        is a multiple of `ROW_MULTIPLE` unless all sequences are equally long, which then have a row each.
    """
    width = max(lengths)
    if min(lengths) < width:
        width += -width % ROW_MULTIPLE
    rows = 0
    with_room: list[list[int]] = [[] for _ in range(width + 1)]
    starts = [0] * len(lengths)
    for index in sorted(range(len(lengths)), key=lambda index: -lengths[index]):
        length = lengths[index]
        room = next((room for room in range(length, width) if with_room[room]), width)
        if room == width:
            row, rows = rows, rows + 1
        else:
            row = with_room[room].pop()
        starts[index] = (row + 1) * width - room
        with_room[room - length].append(row)
    return np.asarray(starts, dtype=np.int64), rows, width


def to_device(values: NDArray[np.generic], device: torch.device) -> Tensor:
    """Return an array as a tensor on a device, without waiting for the device."""
    tensor = torch.tensor(values)
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


def _within(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return 0 to count - 1 for each of the counts, one after another."""
    ends = counts.cumsum()
    return np.arange(int(counts.sum()), dtype=np.int64) - np.repeat(ends - counts, counts)


def _queries(first: NDArray[np.int64], rows: int, width: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the columns (R, Q) of positions (S,) in their rows, and the place of each in the flattened columns."""
    row = first // width
    order = np.argsort(row, kind="stable")
    counts = np.bincount(row, minlength=rows)
    place = np.empty_like(first)
    place[order] = _within(counts)
    most = int(counts.max())
    queries = np.zeros((rows, most), dtype=np.int64)
    queries[row, place] = first % width
    return queries, row * most + place
