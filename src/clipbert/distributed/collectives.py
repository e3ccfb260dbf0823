"""Differentiable collective operations for losses: gather rows, sum values, and scale means over all processes."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def in_group() -> bool:
    """Return whether this process trains together with others."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


class RankRows:
    """Position of the rows of this rank among the rows of all ranks.

    Outside a process group, the rows of this process are all rows.

    Attributes:
        own: slice of this rank's rows.
    """

    def __init__(self, sizes: tuple[int, ...] = ()) -> None:
        """
        Args:
            sizes: number of rows of each rank; the same on all ranks.
        """
        if in_group() and len(sizes) != dist.get_world_size():
            raise ValueError(f"sizes is {sizes}: expected the rows of each of the {dist.get_world_size()} ranks.")
        self.sizes = sizes if in_group() else ()
        start = sum(self.sizes[: dist.get_rank()]) if self.sizes else 0
        self.own = slice(start, start + self.sizes[dist.get_rank()]) if self.sizes else slice(None)

    def gather(self, rows: Tensor) -> Tensor:
        """Gather rows (B, ...) of all ranks to (sum of B, ...), in the order of the ranks.

        The backward pass sums the gradients of all ranks with respect to this rank's rows. If every rank computes the
        loss over all rows, the mean of the parameter gradients (DistributedDataParallel) equals the gradient of one
        process with the whole batch. Outside a process group the same tensor is returned.
        """
        if not self.sizes:
            return rows
        gathered: Tensor = _Gather.apply(rows, self.sizes, self.own)
        return gathered


def scale_loss_for_ddp(mean: Tensor, count: Tensor | int) -> Tensor:
    """Scale a mean over `count` rows of this rank so that the average over ranks is the mean over all rows.

    DistributedDataParallel averages the gradients of the ranks. With this scaling that is the gradient of the mean over
    all rows, also if the numbers of rows differ. Outside a process group the same tensor is returned.
    """
    if not in_group():
        return mean
    own = count.to(mean.dtype) if isinstance(count, Tensor) else mean.new_full((), count)
    return mean * (own * dist.get_world_size() / _all_reduce_sum(own).clamp(min=1))


def sum_over_ranks(values: Tensor) -> Tensor:
    """Return the sum of `values` over the ranks; the backward pass sums the gradients over the ranks as well."""
    total: Tensor = _Sum.apply(values)
    return total


def _all_reduce_sum(values: Tensor) -> Tensor:
    total = values.clone(memory_format=torch.contiguous_format)
    dist.all_reduce(total)
    return total


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        return _all_reduce_sum(values)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return _all_reduce_sum(gradients[0])


class _Gather(torch.autograd.Function):
    """all_gather with gradients and different numbers of rows.

    torch.distributed.nn.all_gather requires equal numbers and is deprecated since torch 2.13.
    """

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
        return _all_reduce_sum(gradients[0])[ctx.own], None, None
