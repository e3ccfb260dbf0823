"""Guard against steps with a non-finite loss or gradient: skipped, counted and listed in a file."""

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
MAX_LISTED = 8


class NonFiniteGuard:
    """Count of the steps that were skipped because their loss or gradient was non-finite.

    Only the device knows which steps were skipped, so steps are recorded and then counted together from time to time.
    """

    def __init__(self, task: str, folder: Path, limit: int, context: DistributedContext, count: int = 0) -> None:
        """
        Args:
            folder: receives bad_steps.json.
            limit: `train.max_bad_steps`.
            count: skipped steps before this process started.
        """
        self.task, self.file, self.limit, self.context, self.count = task, folder / BAD_STEPS, limit, context, count
        self._recent: list[tuple[int, int, Tensor, Tensor, list[BatchMetadata]]] = []

    def record(self, step: int, epoch: int, output: StepOutput) -> None:
        """Record the output of a step, to be counted later."""
        self._recent.append((step, epoch, output.skipped, output.losses["loss"], output.batches))

    def flush(self) -> int:
        """Count the recorded steps and return the total; waits for the device.

        Raises:
            StopTraining: more steps than `train.max_bad_steps` were skipped.
        """
        ids = self.count_recorded()
        if ids is not None and self.count > self.limit:
            raise StopTraining(
                ClipBertError(
                    f"train {self.task}: {self.count} steps had a non-finite loss or gradient, more than "
                    f"train.max_bad_steps = {self.limit}; the last one had {_shorten(ids)}. All of them are listed in "
                    f"{self.file}. Check what they have in common, or lower train.lr or train.max_grad_norm. The state "
                    "is saved: with a larger train.max_bad_steps the training resumes."
                )
            )
        return self.count

    def count_recorded(self) -> list[str] | None:
        """Count the recorded steps without a limit; return the text ids of the last skipped one, None without one."""
        recent, self._recent = self._recent, []
        ids = None
        flags = torch.stack([skipped for _, _, skipped, _, _ in recent]).tolist() if recent else []
        for (step, epoch, _, loss, batches), skipped in zip(recent, flags, strict=True):
            if skipped:
                self.count += 1
                ids = self._report(step, epoch, loss.item(), batches)
        return ids

    def _report(self, step: int, epoch: int, loss: float, batches: list[BatchMetadata]) -> list[str]:
        gathered = self.context.gather([(batch.media, batch.ids) for batch in batches])
        media = [name for share in gathered for names, _ in share for name in names]
        texts = [text for share in gathered for _, ids in share for text in ids]
        if self.context.first:
            errors.print(
                f"train {self.task}: step {step} is skipped because its loss or gradient is non-finite; it had "
                f"{_shorten(texts)}."
            )
            self._write(step, {"epoch": epoch, "loss": repr(loss), "media": media, "texts": texts})
        return texts

    def _write(self, step: int, row: dict[str, Any]) -> None:
        """Add a row to the file; a full disk or a damaged file does not end the training."""
        rows: dict[str, Any] = {}
        with contextlib.suppress(OSError, ValueError):
            rows = json.loads(self.file.read_text())
        try:
            write_json(self.file, rows | {str(step): row})
        except (OSError, ClipBertError) as error:
            errors.print(f"{error}\nTraining continues; step {step} is not listed in that file.")


def _shorten(ids: list[str]) -> str:
    return f"texts {', '.join(ids[:MAX_LISTED])}{', ...' if len(ids) > MAX_LISTED else ''}"
