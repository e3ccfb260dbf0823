"""Steps whose loss or gradient is no finite number: left out, counted, and kept for whoever looks for the reason."""

import json
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from clipbert.console import errors
from clipbert.errors import ClipBertError
from clipbert.files import write_json
from clipbert.tasks.base import Batch
from clipbert.train.distributed import Ranks
from clipbert.train.feed import Ended

BAD_STEPS = "bad_steps.json"
SHOWN = 8


class Named(NamedTuple):
    """What a batch was of."""

    media: list[str]
    texts: list[str]


class BadSteps:
    """Which steps were bad is known to the device first; it is asked now and then, not in every step."""

    def __init__(self, task: str, folder: Path, limit: int, ranks: Ranks, count: int = 0) -> None:
        """`count`: how many there were before."""
        self.task, self.file, self.limit, self.ranks, self.count = task, folder / BAD_STEPS, limit, ranks, count
        self._recent: list[tuple[int, int, Tensor, Tensor, list[Named]]] = []

    def note(self, step: int, epoch: int, bad: Tensor, loss: Tensor, batches: list[Batch]) -> None:
        """What the step after `step` steps was; `bad` and `loss` are on the device."""
        named = [Named(list(batch.media), batch.ids) for batch in batches]
        self._recent.append((step, epoch, bad, loss, named))

    def settle(self) -> int:
        """How many there were up to the last step; waits for the device.

        Raises:
            Ended: there are more than `train.max_bad_steps`.
        """
        recent, self._recent = self._recent, []
        flags = torch.stack([bad for _, _, bad, _, _ in recent]).tolist() if recent else []
        for (step, epoch, _, loss, named), bad in zip(recent, flags, strict=True):
            if bad:
                self.count += 1
                ids = self._keep(step, epoch, loss.item(), named)
        if any(flags) and self.count > self.limit:
            raise Ended(
                ClipBertError(
                    f"train {self.task}: {self.count} steps had a loss or gradient that is no finite number, more than "
                    f"train.max_bad_steps = {self.limit}; the last one had {_some(ids)}. All of them are in "
                    f"{self.file}. Look at what they have in common, or lower train.lr or train.clip_norm. The state "
                    "is saved: with a larger train.max_bad_steps it goes on."
                )
            )
        return self.count

    def _keep(self, step: int, epoch: int, loss: float, named: list[Named]) -> list[str]:
        shares = self.ranks.gather([(some.media, some.texts) for some in named])
        media = [name for share in shares for names, _ in share for name in names]
        texts = [text for share in shares for _, some in share for text in some]
        if self.ranks.first:
            errors.print(
                f"train {self.task}: step {step} is left out, its loss or gradient is no finite number; it had "
                f"{_some(texts)}.",
                markup=False,
            )
            kept: dict[str, Any] = json.loads(self.file.read_text()) if self.file.exists() else {}
            kept[str(step)] = {"epoch": epoch, "loss": repr(loss), "media": media, "texts": texts}
            write_json(self.file, kept)
        return texts


def _some(texts: list[str]) -> str:
    return f"texts {', '.join(texts[:SHOWN])}{', ...' if len(texts) > SHOWN else ''}"


class KeptStatistics:
    """The running statistics of batch norms that learn, put back where the step that changed them is left out."""

    def __init__(self, model: nn.Module) -> None:
        norms = [
            m for m in model.modules() if isinstance(m, nn.BatchNorm2d) and m.training and m.running_mean is not None
        ]
        self.buffers = [buffer for norm in norms for buffer in norm.buffers()]
        self.before = [buffer.clone() for buffer in self.buffers]

    @torch.no_grad()
    def put_back(self, where: Tensor | None = None) -> None:
        """All of them, or those of a step for which the flag on the device says so."""
        for buffer, before in zip(self.buffers, self.before, strict=True):
            buffer.copy_(before if where is None else torch.where(where, before, buffer))
