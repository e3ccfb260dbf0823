"""Exponential moving average of the weights, which is validated and saved instead of the latest weights."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


class ExponentialMovingAverage:
    """Moving average of the trainable parameters: mean = d * mean + (1 - d) * weights (Polyak and Juditsky 1992).

    d is min(decay, (1 + t) / (10 + t)) after t updates, so that the random initial weights are soon forgotten. Frozen
    parameters and buffers are not averaged: batch norms use the model's current statistics. Averaging these made no
    difference to the loss on the sample set.

    torch's AveragedModel is not used: it copies the whole module, has no such warm-up, and waits for the GPU at each
    update because it keeps the number of updates in a tensor.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        """
        Args:
            model: on its device, with frozen parameters already frozen; the average starts at its weights.
        """
        self.decay, self.updates = decay, 0
        self._mean = {name: value.detach().clone() for name, value in _trainable(model).items()}

    def add_parameters(self, model: nn.Module) -> None:
        """Average parameters that have become trainable too, from their present weights on."""
        self._mean = {
            name: self._mean[name] if name in self._mean else value.detach().clone()
            for name, value in _trainable(model).items()
        }

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Update the average with the weights after a step."""
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        torch._foreach_lerp_(self._values(), list(_trainable(model).values()), 1 - decay)
        self.updates += 1

    @contextmanager
    def swapped(self, model: nn.Module) -> Iterator[None]:
        """Give `model` the average for the duration of the context; afterwards it has exactly its own weights again."""
        weights = list(_trainable(model).values())
        backup = [weight.detach().clone() for weight in weights]
        with torch.no_grad():
            torch._foreach_copy_(weights, self._values())
        try:
            yield
        finally:
            with torch.no_grad():
                torch._foreach_copy_(weights, backup)

    def state_dict(self) -> dict[str, Any]:
        """Return the average and the number of updates, for a checkpoint."""
        return {"updates": self.updates, "mean": dict(self._mean)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned, on the device of this model.

        Raises:
            ValueError: the average belongs to another model.
        """
        differing = sorted(state["mean"].keys() ^ self._mean.keys())
        if differing:
            raise ValueError(
                f"the moving average belongs to another model; differing parameters: {', '.join(differing[:8])}"
            )
        for name, value in self._mean.items():
            value.copy_(state["mean"][name])
        self.updates = state["updates"]

    def _values(self) -> list[Tensor]:
        return list(self._mean.values())


def _trainable(model: nn.Module) -> dict[str, Tensor]:
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
