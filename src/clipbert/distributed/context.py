"""Processes of a data-parallel training: rank, device, agreement between them, and synchronized batch norms."""

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import BatchNorm2d

from clipbert.console import errors
from clipbert.distributed.collectives import sum_over_ranks
from clipbert.errors import OUR_ERROR, ClipBertError, first_line
from clipbert.exit_status import started_by_torchrun

# Ranks wait while another one validates or writes. A process that died is noticed at once, without this timeout.
TIMEOUT = timedelta(hours=6)


@dataclass(frozen=True)
class DistributedContext:
    """Rank of this process among those of a training; the first one writes files and messages."""

    rank: int = 0
    world: int = 1
    control: Any = None  # gloo group for values on the host, so that agreeing does not wait for a GPU

    @property
    def first(self) -> bool:
        """Whether this is the process that writes files and messages."""
        return self.rank == 0

    def all_reduce_max(self, *numbers: int) -> list[int]:
        """Return the maximum of each number over the processes; all processes must call it."""
        if self.world == 1:
            return list(numbers)
        values = torch.tensor(numbers)
        dist.all_reduce(values, dist.ReduceOp.MAX, group=self.control)
        return [int(value) for value in values]

    def gather(self, value: Any) -> list[Any]:
        """Return the value of each process; all processes must call it."""
        if self.world == 1:
            return [value]
        values: list[Any] = [None] * self.world
        dist.all_gather_object(values, value, group=self.control)
        return values

    def any(self, flag: Tensor) -> Tensor:
        """Return on the device whether the flag is set in any process."""
        if self.world == 1:
            return flag
        value = flag.float()
        dist.all_reduce(value, dist.ReduceOp.MAX)
        return value > 0

    def means(self, values: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the all-reduced mean of each value."""
        if self.world == 1:
            return values
        stacked = torch.stack([value.float() for value in values.values()])
        dist.all_reduce(stacked)
        return dict(zip(values, stacked / self.world, strict=True))


def device_of_this_process(parameter: str = "train.processes") -> torch.device:
    """Return the GPU of this process, or the CPU on a machine without GPUs.

    Args:
        parameter: the number of processes, for the message.

    Raises:
        ClipBertError: this machine has fewer GPUs than processes.
    """
    if not torch.cuda.is_available():
        return torch.device("cpu")
    local = int(os.environ.get("LOCAL_RANK", "0"))
    if local >= torch.cuda.device_count():
        raise ClipBertError(
            f"{parameter}: no GPU for process {local + 1}, this machine has {torch.cuda.device_count()}. Set "
            f"{parameter} to {torch.cuda.device_count()} or less."
        )
    torch.cuda.set_device(local)
    return torch.device("cuda", local)


@contextlib.contextmanager
def init_distributed(device: torch.device) -> Iterator[DistributedContext]:
    """Join the process group of torchrun; outside torchrun yield the context of a single process.

    Raises:
        SystemExit: another process died; the last checkpoint is unchanged.
    """
    if not started_by_torchrun():
        yield DistributedContext()
        return
    try:
        backend = "nccl" if device.type == "cuda" else "gloo"
        dist.init_process_group(backend, timeout=TIMEOUT, device_id=device if device.type == "cuda" else None)
        control = dist.new_group(backend="gloo", timeout=TIMEOUT)
        yield DistributedContext(dist.get_rank(), dist.get_world_size(), control)
    except RuntimeError as error:
        if not isinstance(error, dist.DistError) and "gloo" not in str(error).lower():
            raise
        errors.print(f"Process {os.environ['RANK']} ends because another process died ({first_line(error)}).")
        raise SystemExit(OUR_ERROR) from None
    # Only after success: when a process fails, its closed connections tell the processes that wait for it.
    dist.destroy_process_group()


class RankBatchNorm2d(BatchNorm2d):
    """Batch norm with statistics over the frames of all ranks; torch's SyncBatchNorm supports GPUs only."""

    def forward(self, input: Tensor) -> Tensor:
        if not self.training:
            return super().forward(input)
        wide = input.float() if input.dtype in (torch.float16, torch.bfloat16) else input
        own = wide.new_full((1,), input.numel() / input.shape[1])  # filled on the device, without a copy to wait for
        sums = sum_over_ranks(torch.cat([wide.sum(dim=(0, 2, 3)), own]))
        count, mean = sums[-1], sums[:-1] / sums[-1]
        centered = wide - mean[:, None, None]
        variance = sum_over_ranks(centered.square().sum(dim=(0, 2, 3))) / count
        with torch.no_grad():
            assert self.running_mean is not None
            assert self.running_var is not None
            assert self.num_batches_tracked is not None
            assert self.momentum is not None
            self.num_batches_tracked.add_(1)
            self.running_mean.lerp_(mean.to(self.running_mean.dtype), self.momentum)
            self.running_var.lerp_((variance * (count / (count - 1))).to(self.running_var.dtype), self.momentum)
        scale = self.weight * torch.rsqrt(variance + self.eps)
        return (centered * scale[:, None, None] + self.bias[:, None, None]).to(input.dtype)


def convert_sync_batchnorm(model: nn.Module) -> None:
    """Synchronize the trainable batch norms over the ranks in place; names and tensors are unchanged."""
    for module in model.modules():
        if type(module) is BatchNorm2d and module.affine and module.weight.requires_grad:
            module.__class__ = RankBatchNorm2d
