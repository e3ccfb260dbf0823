"""Sequences of different lengths side by side in the rows of one batch, none seeing another, with little padding."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Packing:
    """Where the tokens of S sequences, given one after another, stand in R rows of W tokens."""

    slots: Tensor  # (tokens,) in the rows, one after another
    sequences: Tensor  # (R, W) which sequence a token belongs to, -1 where there is none

    @classmethod
    def from_lengths(cls, lengths: list[int], device: torch.device) -> "Packing":
        """Rows as wide as the longest sequence; the longest first, each where it leaves the least room."""
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
        return cls(slots.to(device), sequences.view(rows, width).to(device))

    def pack(self, tokens: Tensor) -> Tensor:
        """(tokens, hidden) to (R, W, hidden), zero where there is none."""
        rows = tokens.new_zeros(self.sequences.numel(), tokens.shape[-1]).index_copy(0, self.slots, tokens)
        return rows.view(*self.sequences.shape, -1)

    def unpack(self, rows: Tensor) -> Tensor:
        """(R, W, hidden) to (tokens, hidden)."""
        return rows.flatten(0, 1)[self.slots]

    def mask(self) -> Tensor:
        """(R, 1, W, W), true where a token may look at another: within its sequence."""
        return self.sequences[:, None, :, None] == self.sequences[:, None, None, :]
