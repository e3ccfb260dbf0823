"""Sequence packing: several sequences share a row, with little padding and without attending to each other."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class Packing:
    """Positions of the tokens of S sequences in R rows of W tokens.

    Attributes:
        slots: (tokens,) position of each token in the flattened rows; tokens are ordered sequence by sequence.
        sequences: (R, W) index of the sequence that a position belongs to; -1 at padding.
        one_per_row: whether each row is exactly one sequence, so that no mask is needed.
    """

    slots: Tensor
    sequences: Tensor
    one_per_row: bool = False

    @classmethod
    def from_lengths(cls, lengths: list[int], device: torch.device) -> "Packing":
        """Pack sequences into rows as wide as the longest one: best fit, in order of decreasing length."""
        width = max(lengths)
        rows = 0
        with_room: list[list[int]] = [[] for _ in range(width + 1)]
        starts = [0] * len(lengths)
        for index in sorted(range(len(lengths)), key=lambda index: -lengths[index]):
            room = next((room for room in range(lengths[index], width) if with_room[room]), width)
            if room == width:
                row, rows = rows, rows + 1
            else:
                row = with_room[room].pop()
            starts[index] = (row + 1) * width - room
            with_room[room - lengths[index]].append(row)
        counts = torch.tensor(lengths)
        before = counts.cumsum(0) - counts
        slots = torch.arange(int(counts.sum())) + (torch.tensor(starts) - before).repeat_interleave(counts)
        sequences = torch.full((rows * width,), -1)
        sequences[slots] = torch.arange(len(lengths)).repeat_interleave(counts)
        one_per_row = rows == len(lengths) and len(slots) == rows * width
        return cls(slots.to(device), sequences.view(rows, width).to(device), one_per_row)

    def reorder(self, order: Tensor) -> "Packing":
        """Return the same rows for tokens (tokens,) given in another order; `order[i]` is the old index of token i."""
        return replace(self, slots=self.slots[order])

    def pack(self, tokens: Tensor) -> Tensor:
        """Return rows (R, W, hidden) of tokens (tokens, hidden), zero at padding."""
        rows = tokens.new_zeros(self.sequences.numel(), tokens.shape[-1]).index_copy(0, self.slots, tokens)
        return rows.view(*self.sequences.shape, -1)

    def unpack(self, rows: Tensor) -> Tensor:
        """Return tokens (tokens, hidden) of rows (R, W, hidden)."""
        return rows.flatten(0, 1)[self.slots]

    def mask(self) -> Tensor | None:
        """Return the attention mask (R, 1, W, W), true within a sequence; None where no row needs one."""
        if self.one_per_row:
            return None
        return self.sequences[:, None, :, None] == self.sequences[:, None, None, :]
