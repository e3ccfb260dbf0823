"""What a loss needs of the other processes of a distributed training: their rows, with gradients, and their counts."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def in_group() -> bool:
    """Whether this process trains together with others."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


class RankRows:
    """Where the rows of this rank stand among those of all ranks.

    Outside a process group, this rank's rows are all there are.
    """

    def __init__(self, sizes: tuple[int, ...] = ()) -> None:
        """`sizes`: how many rows each rank has, known to all of them; ranks may have different numbers."""
        if in_group() and len(sizes) != dist.get_world_size():
            raise ValueError(f"sizes is {sizes}: expected the rows of each of the {dist.get_world_size()} ranks.")
        self.sizes = sizes if in_group() else ()
        start = sum(self.sizes[: dist.get_rank()]) if self.sizes else 0
        self.own = slice(start, start + self.sizes[dist.get_rank()]) if self.sizes else slice(None)

    def gather(self, rows: Tensor) -> Tensor:
        """(B, ...) of this rank to (sum of B, ...), the ranks in their order; the very tensor where it is alone.

        Backward adds up what the losses of all ranks ask of this rank's rows. Where every rank has the loss over all
        rows, the mean of the ranks' parameter gradients (DistributedDataParallel's) is therefore that of one process
        with all of them in its batch, whatever share each rank had.
        """
        if not self.sizes:
            return rows
        gathered: Tensor = _Gather.apply(rows, self.sizes, self.own)
        return gathered


def scale_loss_for_ddp(mean: Tensor, count: Tensor | int) -> Tensor:
    """A mean over `count` rows of this rank, scaled so that the average over the ranks is the mean over all rows.

    DistributedDataParallel averages the ranks' gradients; this makes that the gradient of the mean over all their rows,
    also where ranks have different numbers of them. The very tensor where this process is alone.
    """
    if not in_group():
        return mean
    own = count.to(mean.dtype) if isinstance(count, Tensor) else mean.new_full((), count)
    return mean * (own * dist.get_world_size() / _summed(own).clamp(min=1))


def sum_over_ranks(values: Tensor) -> Tensor:
    """The sum of the ranks' values, the same on each; backward adds up what all ranks ask of these values."""
    total: Tensor = _Sum.apply(values)
    return total


def _summed(values: Tensor) -> Tensor:
    total = values.clone(memory_format=torch.contiguous_format)
    dist.all_reduce(total)
    return total


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        return _summed(values)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return _summed(gradients[0])


class _Gather(torch.autograd.Function):
    """torch.distributed.nn's all_gather wants as many rows of each rank, and torch 2.13 calls it deprecated."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, sizes: tuple[int, ...], own: slice) -> Tensor:
        ctx.own = own
        padded = rows.new_zeros(max(sizes), *rows.shape[1:])
        padded[: len(rows)] = rows
        parts = [torch.empty_like(padded) for _ in sizes]
        dist.all_gather(parts, padded)
        return torch.cat([part[:size] for part, size in zip(parts, sizes, strict=True)])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        return _summed(gradients[0])[ctx.own], None, None
