"""Floating point operations of a training step, counted once per batch shape."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count
from torch.utils.module_tracker import ModuleTracker

MAX_SHAPES = 64  # to count; a step of a further shape counts as the mean of these


def _attention(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    return int(sdpa_flop_count(query, key, value))


def _attention_backward(gradient: Any, query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    return int(sdpa_backward_flop_count(gradient, query, key, value))


CPU_ATTENTION = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
}


class _NoModuleTracker(ModuleTracker):
    """Tracker that does not record to which module an operation belongs.

    The hooks of ModuleTracker keep recomputed activations alive until counting ends, so a counted step would need the
    memory that activation checkpointing and micro-batches save.
    """

    def __enter__(self) -> "_NoModuleTracker":
        return self

    def __exit__(self, *args: Any) -> None:
        """Do nothing: no hooks were registered."""


class FlopCounts:
    """FLOP of forward and backward by the shapes of a batch: matrix products, convolutions and attention.

    A multiplication and an addition count as two operations; recomputed operations count each time.
    """

    def __init__(self) -> None:
        self._known: dict[tuple[Any, ...], int] = {}
        self.last = 0

    @contextmanager
    def step(self, batch: Any) -> Iterator[None]:
        """Count the forward and backward pass in this context, which runs slower the first time a shape occurs."""
        shape = tuple(
            (name, tuple(value.shape))
            for name, value in sorted(vars(batch).items())
            if isinstance(value, Tensor) and name != "mlm_positions"  # another number of them in each batch
        )
        if shape not in self._known and len(self._known) < MAX_SHAPES:
            counter = FlopCounterMode(display=False, custom_mapping=CPU_ATTENTION)
            counter.mod_tracker = _NoModuleTracker()
            with counter:
                yield
            self._known[shape] = int(counter.get_total_flops())
        else:
            yield
        self.last = self._known.get(shape) or sum(self._known.values()) // len(self._known)
