"""Steps whose loss or gradient is no finite number: left out, counted, and kept for whoever looks for the reason."""

import contextlib
import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from clipbert.console import errors
from clipbert.distributed.context import DistributedContext
from clipbert.errors import ClipBertError
from clipbert.files.atomic import write_json
from clipbert.training.batch_iterator import StopTraining
from clipbert.training.step import BatchMetadata, StepOutput

BAD_STEPS = "bad_steps.json"
SHOWN = 8


class NonFiniteGuard:
    """Which steps were bad is known to the device first; it is asked now and then, not in every step."""

    def __init__(self, task: str, folder: Path, limit: int, ranks: DistributedContext, count: int = 0) -> None:
        """`count`: how many there were before."""
        self.task, self.file, self.limit, self.ranks, self.count = task, folder / BAD_STEPS, limit, ranks, count
        self._recent: list[tuple[int, int, Tensor, Tensor, list[BatchMetadata]]] = []

    def note(self, step: int, epoch: int, stepped: StepOutput) -> None:
        """What the step after `step` steps was."""
        self._recent.append((step, epoch, stepped.bad, stepped.losses["loss"], stepped.batches))

    def settle(self) -> int:
        """How many there were up to the last step; waits for the device.

        Raises:
            Ended: there are more than `train.max_bad_steps`.
        """
        ids = self.look()
        if ids is not None and self.count > self.limit:
            raise StopTraining(
                ClipBertError(
                    f"train {self.task}: {self.count} steps had a loss or gradient that is no finite number, more than "
                    f"train.max_bad_steps = {self.limit}; the last one had {_some(ids)}. All of them are in "
                    f"{self.file}. Look at what they have in common, or lower train.lr or train.max_grad_norm. The "
                    "state is saved: with a larger train.max_bad_steps it goes on."
                )
            )
        return self.count

    def look(self) -> list[str] | None:
        """Count those up to the last step, however many; the texts of the last one, None where none is new."""
        recent, self._recent = self._recent, []
        ids = None
        flags = torch.stack([bad for _, _, bad, _, _ in recent]).tolist() if recent else []
        for (step, epoch, _, loss, named), bad in zip(recent, flags, strict=True):
            if bad:
                self.count += 1
                ids = self._keep(step, epoch, loss.item(), named)
        return ids

    def _keep(self, step: int, epoch: int, loss: float, named: list[BatchMetadata]) -> list[str]:
        shares = self.ranks.gather([(some.media, some.ids) for some in named])
        media = [name for share in shares for names, _ in share for name in names]
        texts = [text for share in shares for _, some in share for text in some]
        if self.ranks.first:
            errors.print(
                f"train {self.task}: step {step} is left out, its loss or gradient is no finite number; it had "
                f"{_some(texts)}.",
                markup=False,
            )
            self._write(step, {"epoch": epoch, "loss": repr(loss), "media": media, "texts": texts})
        return texts

    def _write(self, step: int, row: dict[str, Any]) -> None:
        """Beside those of before; a disk that does not take it, or has damaged them, ends no training."""
        kept: dict[str, Any] = {}
        with contextlib.suppress(OSError, ValueError):
            kept = json.loads(self.file.read_text())
        try:
            write_json(self.file, kept | {str(step): row})
        except (OSError, ClipBertError) as error:
            errors.print(f"{error}\nTraining goes on; this step is not listed there.", markup=False)


def _some(texts: list[str]) -> str:
    return f"texts {', '.join(texts[:SHOWN])}{', ...' if len(texts) > SHOWN else ''}"
