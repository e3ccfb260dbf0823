"""Checkpoints of a training: written in the background, atomically and with checksums; checked before they are used."""

import contextlib
import json
import shutil
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from clipbert.console import console, errors
from clipbert.distributed.context import DistributedContext
from clipbert.errors import ClipBertError
from clipbert.files.atomic import atomic_directory, changed_files, write_json, write_sums
from clipbert.files.leftovers import remove_stale_temporaries
from clipbert.training.budget import ResourceUsage

STATE, TENSORS, WEIGHTS, SUMS = "state.json", "training.pt", "weights.pt", "SHA256SUMS"
STEP, BEST = "step-", "best-"


@dataclass
class TrainState:
    """Position of a training and the curves up to it: all of a checkpoint that is not a tensor."""

    step: int = 0
    best: float = float("-inf")
    best_epoch: int = 0
    best_step: int = 0
    seconds: float = 0.0
    saving_seconds: float = 0.0  # part of `seconds` in which the training waited for checkpoints
    joules: float = 0.0
    flops: float = 0.0  # of the forward and backward passes of all processes
    bad_steps: int = 0
    microbatches: int = 1
    run_id: str | None = None
    history: list[dict[str, float]] = field(default_factory=list)
    validation: list[dict[str, float]] = field(default_factory=list)
    budget: dict[str, Any] | None = None  # state of the BudgetTracker
    phases: dict[str, tuple[int, float]] = field(default_factory=dict)  # see `training.phases`: step and position

    def __post_init__(self) -> None:
        self.phases = {name: (step, position) for name, (step, position) in self.phases.items()}  # JSON has lists

    @property
    def validated_step(self) -> int:
        """The step of the last validation; 0 before the first one."""
        return int(self.validation[-1]["step"]) if self.validation else 0

    def update_best(self, metrics: dict[str, float], main_metric: str, epoch: int) -> bool:
        """Append the metrics of a validation and return whether they are the best so far."""
        self.validation.append({"step": self.step, "epoch": epoch, **metrics})
        better = metrics[main_metric] > self.best
        if better:
            self.best, self.best_epoch, self.best_step = metrics[main_metric], epoch, self.step
        return better

    def monitor_state(self, context: DistributedContext) -> dict[str, float]:
        """Return the state of this process's `ThroughputMonitor`.

        Saved are sums over the processes: one process continues from all of the energy, each from its part of the
        operations.
        """
        return {"joules": self.joules if context.first else 0.0, "flops": self.flops / context.world}

    def update_usage(self, usage: ResourceUsage, flops: float) -> None:
        """Set the resources used so far."""
        self.seconds, self.joules, self.flops = usage.seconds, usage.joules or 0.0, flops


class Checkpoints:
    """Folder with the last `keep` checkpoints of a training and the weights of its best epoch.

    `step-00000100/` holds state.json (TrainState, fingerprint and environment), training.pt (weights, optimizer state
    in fp32 and the random number generators of all processes; read with weights_only) and SHA256SUMS.
    `best-00000100/` holds weights.pt and SHA256SUMS. Each folder is written under a temporary name, flushed to disk and
    renamed.
    """

    def __init__(
        self, folder: Path, fingerprint: dict[str, Any], keep: int = 2, environment: dict[str, Any] | None = None
    ) -> None:
        """
        Args:
            fingerprint: parameters and data; a checkpoint with another fingerprint is not used.
            environment: what affects only the reproducibility (device, number of processes, torch version); a
                checkpoint with another environment is used, with a message.
        """
        self.folder, self.keep = folder, keep
        self.fingerprint = json.loads(json.dumps(fingerprint))
        self.environment = json.loads(json.dumps(environment or {}))
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="checkpoints")
        self._writing: Future[None] | None = None
        self._unwritten: dict[str, Tensor] | None = None  # best weights that are not on the disk yet
        self._microbatches = folder / "microbatches.json"

    @property
    def busy(self) -> bool:
        """Whether a checkpoint is still being written; `save` would wait for it."""
        return self._writing is not None and not self._writing.done()

    def save(
        self,
        state: TrainState,
        step_state: dict[str, Any],
        rng: list[Any],
        best: dict[str, Tensor] | None = None,
        wait: bool = False,
    ) -> None:
        """Copy the current state and write it in the background.

        When the write fails, an error is printed and training continues.

        Args:
            step_state: `TrainStep.state_dict()`.
            rng: states of the random number generators of each process.
            best: the current weights, if they are those of the best epoch. If they cannot be written, they are kept in
                memory and written with the next checkpoint.
            wait: return when the checkpoint is on the disk.

        Raises:
            ClipBertError: with `wait`, the checkpoint cannot be written.
        """
        started = time.monotonic()
        self.finish()
        values = asdict(state) | {"best": state.best if np.isfinite(state.best) else None}
        document = {"fingerprint": self.fingerprint, "environment": self.environment, "state": values}
        tensors = snapshot({"step": step_state, "rng": rng, "best": best})
        if (weights := tensors.pop("best")) is not None:
            self._unwritten = weights
        self._writing = self._writer.submit(self._write, state.step, state.best_step, document, tensors)
        if wait:
            self._writing.result()
        state.saving_seconds += time.monotonic() - started

    def finish(self) -> bool:
        """Wait for the checkpoint that is being written; print an error and return False if it could not be written."""
        writing, self._writing = self._writing, None
        if writing is None:
            return True
        try:
            writing.result()
        except (ClipBertError, OSError, RuntimeError) as error:
            errors.print(f"{error}\nTraining continues; this checkpoint was not written.")
            return False
        return True

    def newest(self) -> int | None:
        """Return the step of the newest checkpoint that is undamaged and has this fingerprint, or None.

        Damaged checkpoints are reported and removed. When a checkpoint has another fingerprint, the differing names are
        printed and all checkpoints are removed.
        """
        remove_stale_temporaries([self.folder])
        for path in sorted(self.folder.glob(f"{STEP}*"), reverse=True):
            try:
                check_sums(path, TENSORS, STATE)
                document = json.loads((path / STATE).read_text())
                differing = differences(document["fingerprint"], self.fingerprint)
                if differing:
                    console.print(f"Starting over: {path} was made with other {', '.join(differing)}.")
                    self.clear()
                    return None
                best = document["state"]["best_step"]
                if best:
                    check_sums(self._best(best), WEIGHTS)
            except (OSError, ValueError, KeyError) as error:
                errors.print(f"{path} cannot be used ({error}); using the one before it.")
                shutil.rmtree(path, ignore_errors=True)
                continue
            changed = differences(document["environment"], self.environment)
            if changed:
                saved = [f"{name} {document['environment'].get(name)}" for name in changed]
                console.print(
                    f"{path} was made with {', '.join(saved)}: the training resumes, but its result will not be "
                    "bit-identical."
                )
            return int(document["state"]["step"])
        return None

    def read(self, step: int) -> tuple[TrainState, dict[str, Any], list[dict[str, Any]]]:
        """Return the TrainState, the state of the TrainStep and the random number generators of each process."""
        folder = self._step(step)
        values = json.loads((folder / STATE).read_text())["state"]
        state = TrainState(**values | {"best": float("-inf") if values["best"] is None else values["best"]})
        state.microbatches = max(state.microbatches, self.microbatches())
        tensors = torch.load(folder / TENSORS, map_location="cpu", weights_only=True)
        return state, tensors["step"], tensors["rng"]

    def load_best(self, step: int) -> dict[str, Tensor]:
        """Return the weights of the best epoch, which ended at `step`.

        Raises:
            ClipBertError: the file is missing or damaged.
        """
        self.finish()
        if self._unwritten is not None:
            return self._unwritten
        folder = self._best(step)
        try:
            check_sums(folder, WEIGHTS)
            weights: dict[str, Tensor] = torch.load(folder / WEIGHTS, map_location="cpu", weights_only=True)
        except (OSError, ValueError, RuntimeError) as error:
            raise ClipBertError(
                f"{folder}: the weights of the best epoch cannot be read ({error}). Remove {self.folder} and rerun the "
                "training."
            ) from error
        return weights

    def microbatches(self) -> int:
        """Return the number of micro-batches that a process saved before it restarted for lack of memory; default 1."""
        with contextlib.suppress(OSError, ValueError):
            return int(json.loads(self._microbatches.read_text()))
        return 1

    def save_microbatches(self, count: int) -> None:
        """Save the number of micro-batches for the processes that are started next."""
        write_json(self._microbatches, count)

    def clear(self) -> None:
        """Remove all checkpoints of this training."""
        self.finish()
        self._unwritten = None
        for path in [*self.folder.glob(f"{STEP}*"), *self.folder.glob(f"{BEST}*")]:
            shutil.rmtree(path, ignore_errors=True)
        self._microbatches.unlink(missing_ok=True)

    def _write(self, step: int, best_step: int, document: dict[str, Any], tensors: Any) -> None:
        if self._unwritten is not None:
            with atomic_directory(self._best(best_step)) as folder:
                with (folder / WEIGHTS).open("wb") as file:
                    torch.save(self._unwritten, file)
                write_sums(folder / SUMS, [folder / WEIGHTS])
            self._unwritten = None
        with atomic_directory(self._step(step)) as folder:
            with (folder / TENSORS).open("wb") as file:
                torch.save(tensors, file)
            write_json(folder / STATE, document)
            write_sums(folder / SUMS, [folder / TENSORS, folder / STATE])
        self._remove_old()

    def _remove_old(self) -> None:
        steps = sorted(self.folder.glob(f"{STEP}*"), reverse=True)
        for path in steps[self.keep :]:
            shutil.rmtree(path)
        needed = set()
        for path in steps[: self.keep]:
            with contextlib.suppress(OSError, ValueError, KeyError):  # `newest` reports a damaged one
                needed.add(self._best(json.loads((path / STATE).read_text())["state"]["best_step"]))
        for path in self.folder.glob(f"{BEST}*"):
            if path not in needed:
                shutil.rmtree(path)

    def _best(self, step: int) -> Path:
        return self.folder / f"{BEST}{step:08d}"

    def _step(self, step: int) -> Path:
        return self.folder / f"{STEP}{step:08d}"


def snapshot(tree: Any) -> Any:
    """Return a copy of nested dicts, lists and tuples with each tensor on the CPU; shared tensors are copied once."""
    return _copied(tree, {})


def _copied(value: Any, copies: dict[tuple[Any, ...], Tensor]) -> Any:
    """Return the copy of a part of a tree.

    It is not a function inside `snapshot`: one that calls itself would be a reference cycle, which keeps each copy in
    memory until Python's garbage collector runs.

    Args:
        copies: of the tensors copied so far.
    """
    if isinstance(value, Tensor):
        key = (value.data_ptr(), value.shape, value.stride(), value.dtype) if value.numel() else (id(value),)
        if key not in copies:
            copies[key] = value.detach().to("cpu", copy=True)
        return copies[key]
    if isinstance(value, dict):
        return {name: _copied(inner, copies) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_copied(inner, copies) for inner in value]
    return value


def check_sums(folder: Path, *names: str) -> None:
    """Check the files of a folder against its checksums.

    Raises:
        ValueError: a file is missing or has other bytes than were written; names the file.
        OSError: there are no checksums.
    """
    lines = (folder / SUMS).read_text(encoding="utf-8").split("\n")
    if [line.partition("  ")[2] for line in lines] != [*names, ""]:
        raise ValueError(f"{SUMS} has other bytes than were written")
    for path, _, found in changed_files(folder / SUMS):
        raise ValueError(f"{path.name} {'is missing' if found is None else 'has other bytes than were written'}")


def differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """Return the sorted names of differing values."""
    return sorted(key for key in old.keys() | new.keys() if old.get(key) != new.get(key))


def rng_states() -> dict[str, Any]:
    """Return the states of the random number generators of this process."""
    states: dict[str, Any] = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        states["cuda"] = torch.cuda.get_rng_state()
    return states


def restore_rng_states(states: dict[str, Any]) -> None:
    """Restore what `rng_states` returned; states of a device that this machine lacks are ignored."""
    torch.set_rng_state(states["cpu"])
    if torch.cuda.is_available() and "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"])
