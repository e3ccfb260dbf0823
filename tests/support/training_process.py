"""Training in its own process, for tests that kill it; run by path or as a function, alone or as one of several ranks.

Arguments: project folder, output folder, JSON {"task": name, "params": {...}, "double": whether in float64, "rows":
number of rows that fit into memory, "full": whether the disk is full}. Each process appends the videos and the loss of
every step to FOLDER/RANK.jsonl, and its id to FOLDER/RANK.pid; the first one writes FOLDER/weights.pt at the end.
"""

import errno
import json
import os
import sys
from pathlib import Path
from typing import Any

import torch
from small_trainings import make_trainer

from clipbert.config.schema import Params
from clipbert.console import console, errors
from clipbert.distributed.context import device_of_this_process, init_distributed
from clipbert.errors import ClipBertError
from clipbert.model.encoder import ClipBertEncoder
from clipbert.training import checkpoint
from clipbert.training import trainer as loop
from clipbert.training.step import TrainStep
from clipbert.training.tracker import NoOpTracker

SMALL = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 48}


class Recorded(TrainStep):
    """TrainStep that records each step in a file before the next one begins."""

    out: Path

    def run(self, batches: Any, gradient_accumulation_steps: int, rng: Any) -> Any:
        step = batches.batches.position // gradient_accumulation_steps
        output = super().run(batches, gradient_accumulation_steps, rng)
        media = [name for batch in output.batches for name in batch.media]
        row = {"step": step, "loss": output.losses["loss"].item(), "media": media}
        with (self.out / f"{self.context.rank}.jsonl").open("a") as file:
            file.write(json.dumps(row) + "\n")
        return output


def little_memory(rows: int) -> None:
    """Let more than `rows` rows in a training forward pass of the encoder run out of memory."""
    real = ClipBertEncoder.forward

    def checked(self: ClipBertEncoder, hidden_states: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        if len(hidden_states) > rows and torch.is_grad_enabled():
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")
        return real(self, hidden_states, *args, **kwargs)

    ClipBertEncoder.forward = checked  # type: ignore[method-assign]


def full_disk(*given: Any) -> None:
    """Fail as on a full disk; replaces the function that writes the last file of a checkpoint."""
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def main(project: Path, out: Path, settings: dict[str, Any]) -> None:
    params = Params.model_validate({"model": SMALL} | settings["params"])
    Recorded.out = out
    loop.TrainStep = Recorded  # type: ignore[misc]
    device = device_of_this_process()
    with init_distributed(device) as context:
        console.quiet = not context.first
        environment = {"processes": context.world}
        trainer = make_trainer(project, out / "checkpoints", settings["task"], params, environment, device, context)
        if settings.get("double"):
            trainer.model.double()
        if "rows" in settings:
            little_memory(settings["rows"])
        if settings.get("full"):
            checkpoint.write_sums = full_disk
        trainer.resume()
        state = trainer.train(NoOpTracker())
        if context.first:
            torch.save({"weights": trainer.model.state_dict(), "validation": state.validation}, out / "weights.pt")


def run(project: Path, out: Path, settings: dict[str, Any]) -> None:
    """Train, and exit with 2 after an error of the user."""
    torch.set_num_threads(1)
    (out / f"{os.environ.get('RANK', '0')}.pid").write_text(str(os.getpid()))
    try:
        main(project, out, settings)
    except ClipBertError as error:
        errors.print(str(error), markup=False)
        sys.exit(2)


if __name__ == "__main__":
    run(Path(sys.argv[1]), Path(sys.argv[2]), json.loads(sys.argv[3]))
