"""Resume state: written whole under a temporary name, renamed, and trusted only when its fingerprint is today's."""

import contextlib
import json
import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_model, save_model
from torch import nn
from torch.optim import Optimizer

from clipbert.console import console
from clipbert.files import atomic_directory, write_json

STATE, WEIGHTS, OPTIMIZER = "state.json", "model.safetensors", "optimizer.pt"


@dataclass
class Progress:
    """How far a run has come; `history` and `validation` are the rows of its curves."""

    step: int = 0
    best: float = float("-inf")
    best_epoch: int = 0
    seconds: float = 0.0
    run_id: str | None = None
    history: list[dict[str, float]] = field(default_factory=list)
    validation: list[dict[str, float]] = field(default_factory=list)


class Checkpoints:
    """The folder of one training: `last/` to go on from, `best/` to ship.

    Layout: state.json (progress and fingerprint), model.safetensors, optimizer.pt (AdamW moments in fp32 and the
    generators' states, read with weights_only).
    """

    def __init__(self, folder: Path, fingerprint: dict[str, Any]) -> None:
        self.folder, self.fingerprint = folder, json.loads(json.dumps(fingerprint))

    def save(self, model: nn.Module, optimizer: Optimizer, progress: Progress) -> None:
        """Replace `last/` by today's state."""
        with atomic_directory(self.folder / "last") as folder:
            save_model(model, str(folder / WEIGHTS))
            generators: dict[str, Any] = {"cpu": torch.get_rng_state()}
            if torch.cuda.is_available():
                generators["cuda"] = torch.cuda.get_rng_state_all()
            torch.save({"optimizer": optimizer.state_dict(), "generators": generators}, folder / OPTIMIZER)
            write_json(folder / STATE, {"fingerprint": self.fingerprint, "progress": _finite(asdict(progress))})

    def save_best(self, model: nn.Module) -> None:
        """Replace `best/` by today's weights."""
        with atomic_directory(self.folder / "best") as folder:
            save_model(model, str(folder / WEIGHTS))

    def load(self, model: nn.Module, optimizer: Optimizer) -> Progress:
        """Put the last state back into model, optimizer and generators; a fresh start where there is none to trust."""
        self._drop_leftovers()
        last = self.folder / "last"
        if not (last / STATE).exists():
            return Progress()
        try:
            state = json.loads((last / STATE).read_text())
            differing = differences(state["fingerprint"], self.fingerprint)
            if differing:
                console.print(f"Starting over: {last} was made with other {', '.join(differing)}.", markup=False)
                self.clear()
                return Progress()
            load_model(model, last / WEIGHTS)
            extra = torch.load(last / OPTIMIZER, weights_only=True)
            optimizer.load_state_dict(extra["optimizer"])
        except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
            console.print(f"Starting over: {last} cannot be read ({error}).", markup=False)
            self.clear()
            return Progress()
        torch.set_rng_state(extra["generators"]["cpu"])
        if torch.cuda.is_available() and "cuda" in extra["generators"]:
            torch.cuda.set_rng_state_all(extra["generators"]["cuda"])
        progress = state["progress"]
        if progress["best"] is None:
            progress["best"] = float("-inf")
        return Progress(**progress)

    def load_best(self, model: nn.Module) -> None:
        """Put the best epoch's weights into the model."""
        load_model(model, self.folder / "best" / WEIGHTS)

    def clear(self) -> None:
        """Remove everything of this training."""
        for name in ("last", "best"):
            shutil.rmtree(self.folder / name, ignore_errors=True)

    def _drop_leftovers(self) -> None:
        """A kill between two renames leaves the older state under a temporary name: put it back or remove it."""
        for old in self.folder.glob(".last.*.old/"):
            if not (self.folder / "last").exists() and (old / STATE).exists():
                old.rename(self.folder / "last")
        for leftover in [*self.folder.glob(".*.tmp"), *self.folder.glob(".*.old")]:
            with contextlib.suppress(FileNotFoundError):
                shutil.rmtree(leftover)


def differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """The names whose values differ, sorted."""
    return sorted(key for key in old.keys() | new.keys() if old.get(key) != new.get(key))


def _finite(progress: dict[str, Any]) -> dict[str, Any]:
    if not np.isfinite(progress["best"]):
        progress["best"] = None
    return progress
