"""Rows of every rank of a distributed training, with gradients, so that a loss may compare all of them."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


class RankRows:
    """Where the rows of this rank stand among those of all ranks; every rank makes one at the same time.

    Without an initialised process group, or in a group of one, this rank's rows are all there are.
    """

    def __init__(self, rows: int, device: torch.device) -> None:
        """`rows`: how many this rank has; ranks may have different numbers of them."""
        self.sizes, rank = [rows], 0
        if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
            mine = torch.tensor([rows], device=device)
            sizes = [torch.empty_like(mine) for _ in range(dist.get_world_size())]
            dist.all_gather(sizes, mine)
            self.sizes, rank = [int(size) for size in sizes], dist.get_rank()
        start = sum(self.sizes[:rank])
        self.own = slice(start, start + rows)

    def gather(self, rows: Tensor) -> Tensor:
        """(B, ...) of this rank to (sum of B, ...), the ranks in their order; the very tensor where it is alone.

        Backward adds up what the losses of all ranks ask of this rank's rows. Where every rank has the loss over all
        rows, the mean of the ranks' parameter gradients (DistributedDataParallel's) is therefore that of one process
        with all of them in its batch, whatever share each rank had.
        """
        if len(self.sizes) == 1:
            return rows
        gathered: Tensor = _Gather.apply(rows, self.sizes, self.own)
        return gathered


class _Gather(torch.autograd.Function):
    """torch.distributed.nn's all_gather wants as many rows of each rank, and torch 2.13 calls it deprecated."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, sizes: list[int], own: slice) -> Tensor:
        ctx.own = own
        padded = rows.new_zeros(max(sizes), *rows.shape[1:])
        padded[: len(rows)] = rows
        parts = [torch.empty_like(padded) for _ in sizes]
        dist.all_gather(parts, padded)
        return torch.cat([part[:size] for part, size in zip(parts, sizes, strict=True)])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        total = gradients[0].clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total[ctx.own], None, None
