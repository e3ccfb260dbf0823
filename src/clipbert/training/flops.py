"""The floating point operations of a training step, counted once for each shape of batch."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count
from torch.utils.module_tracker import ModuleTracker

MOST_SHAPES = 64  # counted; a step of yet another shape counts as the mean of those


def _attention(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    return int(sdpa_flop_count(query, key, value))


def _attention_backward(gradient: Any, query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    return int(sdpa_backward_flop_count(gradient, query, key, value))


CPU_ATTENTION = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
}


class _Untracked(ModuleTracker):
    """No record of which module an operation belongs to.

    The hooks of the real one hold all that is computed again in backward until the counter is left: the counted steps
    would need the memory that activation checkpointing and micro-batches save.
    """

    def __enter__(self) -> "_Untracked":
        return self

    def __exit__(self, *args: Any) -> None:
        """Nothing to take away."""


class FlopCounts:
    """Operations of forward and backward by the shapes of a batch's tensors: matrix products, convolutions, attention.

    A multiplication and an addition are two. What is computed again in backward counts as often as it is computed.
    """

    def __init__(self) -> None:
        self._known: dict[tuple[Any, ...], int] = {}
        self.last = 0

    @contextmanager
    def step(self, batch: Any) -> Iterator[None]:
        """Around forward and backward of a batch, which run slower the first time its shape is seen."""
        shape = tuple(
            (name, tuple(value.shape)) for name, value in sorted(vars(batch).items()) if isinstance(value, Tensor)
        )
        if shape not in self._known and len(self._known) < MOST_SHAPES:
            counter = FlopCounterMode(display=False, custom_mapping=CPU_ATTENTION)
            counter.mod_tracker = _Untracked()
            with counter:
                yield
            self._known[shape] = int(counter.get_total_flops())
        else:
            yield
        self.last = self._known.get(shape) or sum(self._known.values()) // len(self._known)
