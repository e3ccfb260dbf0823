"""An exponential moving average of the weights, which is validated and kept in the place of the last ones."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


class ExponentialMovingAverage:
    """A running mean of what learns: mean = d * mean + (1 - d) * weights (Polyak and Juditsky 1992).

    d is `decay`, at first less: min(decay, (1 + t) / (10 + t)) after t updates, so that the random start is soon
    forgotten. What is frozen stays as it is, and so do buffers: the statistics of live batch norms are the model's own
    of that moment. Averaging them too made no difference to the loss on the sample set.

    torch's own AveragedModel keeps a copy of the whole module, has no such start, and waits for a GPU at each update,
    whose number it holds in a tensor.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        """`model`: on its device, with what is frozen already frozen; the mean starts at its weights."""
        self.decay, self.updates = decay, 0
        self._mean = {name: value.detach().clone() for name, value in _learning(model).items()}

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Take the weights after a step into the mean."""
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        torch._foreach_lerp_(self._values(), list(_learning(model).values()), 1 - decay)
        self.updates += 1

    @contextmanager
    def swapped(self, model: nn.Module) -> Iterator[None]:
        """Within it `model` has the mean; afterwards its own weights again, to the bit."""
        weights = list(_learning(model).values())
        own = [weight.detach().clone() for weight in weights]
        with torch.no_grad():
            torch._foreach_copy_(weights, self._values())
        try:
            yield
        finally:
            with torch.no_grad():
                torch._foreach_copy_(weights, own)

    def state_dict(self) -> dict[str, Any]:
        """The mean and the number of updates, for a checkpoint."""
        return {"updates": self.updates, "mean": dict(self._mean)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Put back what `state_dict` gave, onto this model's device.

        Raises:
            ValueError: it is of another model.
        """
        differing = sorted(state["mean"].keys() ^ self._mean.keys())
        if differing:
            raise ValueError(f"the moving average is of another model: {', '.join(differing[:8])}")
        for name, value in self._mean.items():
            value.copy_(state["mean"][name])
        self.updates = state["updates"]

    def _values(self) -> list[Tensor]:
        return list(self._mean.values())


def _learning(model: nn.Module) -> dict[str, Tensor]:
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
