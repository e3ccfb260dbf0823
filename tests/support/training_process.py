"""A training in processes of its own, for the tests that kill it: run by path, alone or under torchrun.

argv: project folder, folder to write to, JSON {"task": name, "params": {...}, "double": whether in float64, "rows": how
many fit into the memory, "full": whether the disk is}.
Each process appends to FOLDER/RANK.jsonl what every step had; the first one leaves FOLDER/weights.pt at the end.
"""

import errno
import json
import os
import sys
from pathlib import Path
from typing import Any

import torch

from clipbert.config.schema import Params
from clipbert.console import console, errors
from clipbert.data.manifest import read_texts
from clipbert.distributed.context import device_of_this_process, init_distributed
from clipbert.errors import ClipBertError
from clipbert.frame_cache import FrameCache
from clipbert.model import ClipBertModel
from clipbert.tasks import make_task
from clipbert.training import checkpoint
from clipbert.training import trainer as loop
from clipbert.training.checkpoint import Checkpoints
from clipbert.training.setup import build_model
from clipbert.training.step import TrainStep

SMALL = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 48}


class Recorded(TrainStep):
    """Writes down what each step had, before the next one may begin."""

    out: Path

    def step(self, feed: Any, gradient_accumulation_steps: int, checkpoints: Any, state: Any, generators: Any) -> Any:
        stepped = super().step(feed, gradient_accumulation_steps, checkpoints, state, generators)
        media = [name for batch in stepped.batches for name in batch.media]
        row = {"step": state.step, "loss": stepped.losses["loss"].item(), "media": media}
        with (self.out / f"{self.ranks.rank}.jsonl").open("a") as file:
            file.write(json.dumps(row) + "\n")
        return stepped


def little_memory(rows: int) -> None:
    """No more than so many rows fit through the encoder at once while it learns."""
    real = ClipBertModel._encoder_states

    def checked(self: ClipBertModel, embeds: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        if len(embeds) > rows and torch.is_grad_enabled():
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")
        return real(self, embeds, mask)

    ClipBertModel._encoder_states = checked  # type: ignore[method-assign]


def full_disk(*given: Any) -> None:
    """In the place of what writes the last file of a checkpoint."""
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def main(project: Path, out: Path, settings: dict[str, Any]) -> None:
    params = Params.model_validate({"model": SMALL} | settings["params"])
    task = make_task(settings["task"], params)
    texts = read_texts(project / "artifacts" / "manifest")
    Recorded.out = out
    loop.TrainStep = Recorded  # type: ignore[misc]
    device = device_of_this_process()
    with init_distributed(device) as ranks:
        console.quiet = not ranks.first
        torch.manual_seed(params.seed)
        examples, val = task.examples(texts, "train"), task.examples(texts, "val")
        model, processor = build_model(task, examples, params)
        if settings.get("double"):
            model.double()
        if "rows" in settings:
            little_memory(settings["rows"])
        if settings.get("full"):
            checkpoint.write_sums = full_disk
        circumstances = {"processes": ranks.world}
        checkpoints = Checkpoints(out / "checkpoints", {}, params.train.keep_checkpoints, circumstances)
        cache = FrameCache(project / "artifacts" / "frames")
        run = loop.Run(task, model, processor, cache, examples, val, params, checkpoints, device, ranks)
        state, stepper = loop.start(run)
        loop.train(run, state, stepper, loop.NoOpTracker())
        if ranks.first:
            torch.save({"weights": model.state_dict(), "validation": state.validation}, out / "weights.pt")


if __name__ == "__main__":
    torch.set_num_threads(1)
    try:
        main(Path(sys.argv[1]), Path(sys.argv[2]), json.loads(sys.argv[3]))
    except ClipBertError as error:
        errors.print(str(error), markup=False)
        sys.exit(2)
