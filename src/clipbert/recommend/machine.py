"""The machine that a training will run on: cores, memory and GPU."""

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path

CGROUP_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))


@dataclass(frozen=True)
class Gpu:
    """A GPU that torch can use."""

    name: str
    memory_bytes: int


@dataclass(frozen=True)
class Machine:
    """What a recommendation needs to know about a machine.

    Attributes:
        cores: CPU cores that this process may use.
        memory_bytes: of the machine, or of the container where it has a limit.
        gpu: the first GPU; None if there is none.
    """

    cores: int
    memory_bytes: int
    gpu: Gpu | None = None

    def describe(self) -> str:
        """Return the machine in a line."""
        gpu = "no GPU" if self.gpu is None else f"GPU {self.gpu.name} with {self.gpu.memory_bytes / 2**30:.0f} GiB"
        cores = f"{self.cores} core{'s' if self.cores > 1 else ''}"
        return f"{cores}, {self.memory_bytes / 2**30:.1f} GiB of memory, {gpu}"


def probe_machine() -> Machine:
    """Return the machine of this process."""
    import torch

    gpu = None
    if torch.cuda.is_available():
        card = torch.cuda.get_device_properties(0)
        gpu = Gpu(card.name, card.total_memory)
    return Machine(len(os.sched_getaffinity(0)), _memory_bytes(), gpu)


def _memory_bytes() -> int:
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    for path in CGROUP_LIMITS:
        with contextlib.suppress(OSError, ValueError):  # no such control group, or "max"
            memory = min(memory, int(path.read_text()))
    return memory
