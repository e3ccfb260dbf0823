"""Several processes that train one model: who this one is, and what they agree on."""

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

# One rank may validate or write while the others wait; a peer that is gone is noticed at once, not by this.
PATIENCE = timedelta(hours=6)


@dataclass(frozen=True)
class DistributedContext:
    """This process among those of a training; the first one, with rank 0, writes and speaks."""

    rank: int = 0
    world: int = 1
    control: Any = None  # a gloo group for numbers of the host: to agree is no reason to wait for a GPU

    @property
    def first(self) -> bool:
        """Whether this is the process that writes and speaks."""
        return self.rank == 0

    def highest(self, *numbers: int) -> list[int]:
        """Of each number the largest that any process has; every process asks at the same time."""
        if self.world == 1:
            return list(numbers)
        values = torch.tensor(numbers)
        dist.all_reduce(values, dist.ReduceOp.MAX, group=self.control)
        return [int(value) for value in values]

    def gather(self, value: Any) -> list[Any]:
        """The value of each process, on all of them."""
        if self.world == 1:
            return [value]
        values: list[Any] = [None] * self.world
        dist.all_gather_object(values, value, group=self.control)
        return values

    def any(self, flag: Tensor) -> Tensor:
        """On the device, whether the flag is set in any process."""
        if self.world == 1:
            return flag
        value = flag.float()
        dist.all_reduce(value, dist.ReduceOp.MAX)
        return value > 0

    def means(self, values: dict[str, Tensor]) -> dict[str, Tensor]:
        """The average of each value over the processes."""
        if self.world == 1:
            return values
        stacked = torch.stack([value.float() for value in values.values()])
        dist.all_reduce(stacked)
        return dict(zip(values, stacked / self.world, strict=True))


def device_of_this_process() -> torch.device:
    """The GPU of this process, or the CPU.

    Raises:
        ClipBertError: there are more processes than GPUs on this machine.
    """
    if not torch.cuda.is_available():
        return torch.device("cpu")
    local = int(os.environ.get("LOCAL_RANK", "0"))
    if local >= torch.cuda.device_count():
        raise ClipBertError(
            f"train.processes: process {local + 1} has no GPU, this machine has {torch.cuda.device_count()}. Set "
            f"train.processes to {torch.cuda.device_count()} or less."
        )
    torch.cuda.set_device(local)
    return torch.device("cuda", local)


@contextlib.contextmanager
def init_distributed(device: torch.device) -> Iterator[DistributedContext]:
    """Meet the other processes; without any, be alone.

    Raises:
        SystemExit: another process is gone; the last checkpoint is what it was.
    """
    if not started_by_torchrun():
        yield DistributedContext()
        return
    try:
        backend = "nccl" if device.type == "cuda" else "gloo"
        dist.init_process_group(backend, timeout=PATIENCE, device_id=device if device.type == "cuda" else None)
        control = dist.new_group(backend="gloo", timeout=PATIENCE)
        yield DistributedContext(dist.get_rank(), dist.get_world_size(), control)
    except RuntimeError as error:
        if not isinstance(error, dist.DistError) and "gloo" not in str(error).lower():
            raise
        errors.print(f"Process {os.environ['RANK']} ends: another one is gone ({first_line(error)}).", markup=False)
        raise SystemExit(OUR_ERROR) from None
    # A process that fails leaves without good-byes, so that those who wait for it notice.
    dist.destroy_process_group()


class RankBatchNorm2d(BatchNorm2d):
    """Batch norm with the statistics of the frames of all ranks; torch's SyncBatchNorm runs on GPUs alone."""

    def forward(self, input: Tensor) -> Tensor:
        if not self.training:
            return super().forward(input)
        wide = input.float() if input.dtype in (torch.float16, torch.bfloat16) else input
        own = wide.new_full((1,), input.numel() / input.shape[1])  # filled on the device: nothing waits for a copy
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
    """Let the batch norms that learn see the frames of all ranks; their names and tensors stay what they were."""
    for module in model.modules():
        if type(module) is BatchNorm2d and module.affine and module.weight.requires_grad:
            module.__class__ = RankBatchNorm2d
