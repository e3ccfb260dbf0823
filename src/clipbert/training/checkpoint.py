"""Resume state: written by a thread, whole under a temporary name, checksummed, and trusted only when it is today's."""

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
from clipbert.errors import ClipBertError
from clipbert.files.atomic import atomic_directory, changed_files, write_json, write_sums
from clipbert.files.leftovers import remove_stale_temporaries
from clipbert.training.budget import ResourceUsage

STATE, TENSORS, WEIGHTS, SUMS = "state.json", "training.pt", "weights.pt", "SHA256SUMS"
STEP, BEST = "step-", "best-"


@dataclass
class TrainState:
    """How far a run has come; `history` and `validation` are the rows of its curves."""

    step: int = 0
    best: float = float("-inf")
    best_epoch: int = 0
    best_step: int = 0
    seconds: float = 0.0
    saving_seconds: float = 0.0  # of them, waited for checkpoints
    joules: float = 0.0
    bad_steps: int = 0
    microbatches: int = 1
    run_id: str | None = None
    history: list[dict[str, float]] = field(default_factory=list)
    validation: list[dict[str, float]] = field(default_factory=list)
    pace: dict[str, Any] | None = None  # of a budget: what steps and validations took

    @property
    def validated_step(self) -> int:
        """The last step after which there was a validation; 0: none."""
        return int(self.validation[-1]["step"]) if self.validation else 0

    def judge(self, metrics: dict[str, float], main_metric: str, epoch: int) -> bool:
        """Take the metrics of a validation in; whether they are the best ones so far."""
        self.validation.append({"step": self.step, "epoch": epoch, **metrics})
        better = metrics[main_metric] > self.best
        if better:
            self.best, self.best_epoch, self.best_step = metrics[main_metric], epoch, self.step
        return better

    def note(self, spent: ResourceUsage, bad_steps: int, pace: dict[str, Any]) -> None:
        """What is known elsewhere while the training runs, for a checkpoint."""
        self.seconds, self.joules = spent.seconds, spent.joules or 0.0
        self.bad_steps, self.pace = bad_steps, pace


class Checkpoints:
    """The folder of one training: the last `keep` checkpoints to go on from, and the best weights to ship.

    Layout: `step-00000100/` holds state.json (progress and fingerprint), training.pt (weights, optimiser in fp32, what
    else has a state, and the generators of all processes; read with weights_only) and SHA256SUMS; `best-00000100/`
    holds weights.pt and SHA256SUMS. Each folder is written under a temporary name, flushed to disk and renamed.
    """

    def __init__(
        self, folder: Path, fingerprint: dict[str, Any], keep: int = 2, circumstances: dict[str, Any] | None = None
    ) -> None:
        """
        Args:
            fingerprint: what a checkpoint must have been made with to be gone on from.
            circumstances: what changes how the training is carried out; another one is said, not refused.
        """
        self.folder, self.keep = folder, keep
        self.fingerprint = json.loads(json.dumps(fingerprint))
        self.circumstances = json.loads(json.dumps(circumstances or {}))
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="checkpoints")
        self._writing: Future[None] | None = None
        self._unwritten: dict[str, Tensor] | None = None  # best weights that the disk did not take yet
        self._microbatches = folder / "microbatches.json"

    @property
    def busy(self) -> bool:
        """Whether the one before is still being written: a save would wait for it."""
        return self._writing is not None and not self._writing.done()

    def save(
        self,
        progress: TrainState,
        parts: dict[str, Any],
        generators: list[Any],
        best: dict[str, Tensor] | None = None,
        wait: bool = False,
    ) -> None:
        """Copy today's state, and let a thread write it. A disk that does not take it is said; training goes on.

        Args:
            parts: name to `state_dict()`.
            generators: the generators' states of each rank.
            best: the weights of the best epoch, when it is the one that has just ended. Where the disk does not take
                them, they are kept in memory and written with the next checkpoint.
            wait: until it is on the disk.

        Raises:
            ClipBertError: with `wait`, the disk does not take it.
        """
        started = time.monotonic()
        self.finish()
        values = asdict(progress) | {"best": progress.best if np.isfinite(progress.best) else None}
        state = {"fingerprint": self.fingerprint, "circumstances": self.circumstances, "progress": values}
        copied = snapshot({"parts": parts, "generators": generators, "best": best})
        if (weights := copied.pop("best")) is not None:
            self._unwritten = weights
        self._writing = self._writer.submit(self._write, progress.step, progress.best_step, state, copied)
        if wait:
            self._writing.result()
        progress.saving_seconds += time.monotonic() - started

    def finish(self) -> bool:
        """Wait for the one that is being written; say why it could not be. Whether it is on the disk."""
        writing, self._writing = self._writing, None
        if writing is None:
            return True
        try:
            writing.result()
        except (ClipBertError, OSError, RuntimeError) as error:
            errors.print(f"{error}\nTraining goes on; this checkpoint was not written.", markup=False)
            return False
        return True

    def newest(self) -> int | None:
        """The step of the newest checkpoint that is whole and today's; None: there is none.

        A damaged one is said, removed and passed over. One that was made with other parameters or data is said with
        the names of what differs, and all of this training is removed.
        """
        remove_stale_temporaries([self.folder])
        for path in sorted(self.folder.glob(f"{STEP}*"), reverse=True):
            try:
                check_sums(path, TENSORS, STATE)
                state = json.loads((path / STATE).read_text())
                best = state["progress"]["best_step"]
                if best:
                    check_sums(self._best(best), WEIGHTS)
            except (OSError, ValueError, KeyError) as error:
                errors.print(f"{path} cannot be used ({error}); the one before it is.", markup=False)
                shutil.rmtree(path, ignore_errors=True)
                continue
            differing = differences(state["fingerprint"], self.fingerprint)
            if differing:
                console.print(f"Starting over: {path} was made with other {', '.join(differing)}.", markup=False)
                self.clear()
                return None
            changed = differences(state["circumstances"], self.circumstances)
            if changed:
                told = [f"{name} {state['circumstances'].get(name)}" for name in changed]
                console.print(
                    f"{path} was made with {', '.join(told)}: the training goes on, not bit for bit as it would have.",
                    markup=False,
                )
            return int(state["progress"]["step"])
        return None

    def read(self, step: int) -> tuple[TrainState, dict[str, Any], list[dict[str, Any]]]:
        """The progress, the states of the parts, and those of each process's generators, of a checkpoint."""
        folder = self._step(step)
        values = json.loads((folder / STATE).read_text())["progress"]
        progress = TrainState(**values | {"best": float("-inf") if values["best"] is None else values["best"]})
        progress.microbatches = max(progress.microbatches, self.microbatches())
        tensors = torch.load(folder / TENSORS, map_location="cpu", weights_only=True)
        return progress, tensors["parts"], tensors["generators"]

    def load_best(self, step: int) -> dict[str, Tensor]:
        """The weights of the best epoch, which ended at `step`.

        Raises:
            ClipBertError: the file is not what was written.
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
                f"{folder}: the weights of the best epoch cannot be read ({error}). Remove {self.folder} and train "
                "again."
            ) from error
        return weights

    def microbatches(self) -> int:
        """Into how many parts a step was cut by a process that ran out of memory and could not go on itself."""
        with contextlib.suppress(OSError, ValueError):
            return int(json.loads(self._microbatches.read_text()))
        return 1

    def keep_microbatches(self, parts: int) -> None:
        """For the processes that are started next."""
        write_json(self._microbatches, parts)

    def clear(self) -> None:
        """Remove everything of this training."""
        self.finish()
        self._unwritten = None
        for path in [*self.folder.glob(f"{STEP}*"), *self.folder.glob(f"{BEST}*")]:
            shutil.rmtree(path, ignore_errors=True)
        self._microbatches.unlink(missing_ok=True)

    def _write(self, step: int, best_step: int, state: dict[str, Any], tensors: Any) -> None:
        if self._unwritten is not None:
            with atomic_directory(self._best(best_step)) as folder:
                with (folder / WEIGHTS).open("wb") as file:
                    torch.save(self._unwritten, file)
                write_sums(folder / SUMS, [folder / WEIGHTS])
            self._unwritten = None
        with atomic_directory(self._step(step)) as folder:
            with (folder / TENSORS).open("wb") as file:
                torch.save(tensors, file)
            write_json(folder / STATE, state)
            write_sums(folder / SUMS, [folder / TENSORS, folder / STATE])
        self._rotate()

    def _rotate(self) -> None:
        steps = sorted(self.folder.glob(f"{STEP}*"), reverse=True)
        for path in steps[self.keep :]:
            shutil.rmtree(path)
        wanted = set()
        for path in steps[: self.keep]:
            with contextlib.suppress(OSError, ValueError, KeyError):  # a damaged one is told of when it would be read
                wanted.add(self._best(json.loads((path / STATE).read_text())["progress"]["best_step"]))
        for path in self.folder.glob(f"{BEST}*"):
            if path not in wanted:
                shutil.rmtree(path)

    def _best(self, step: int) -> Path:
        return self.folder / f"{BEST}{step:08d}"

    def _step(self, step: int) -> Path:
        return self.folder / f"{STEP}{step:08d}"


def snapshot(tree: Any) -> Any:
    """Dicts, lists and tuples with a copy of each tensor in the memory of the host, made once where two share one."""
    copies: dict[tuple[Any, ...], Tensor] = {}

    def copied(value: Any) -> Any:
        if isinstance(value, Tensor):
            key = (value.data_ptr(), value.shape, value.stride(), value.dtype) if value.numel() else (id(value),)
            if key not in copies:
                copies[key] = value.detach().to("cpu", copy=True)
            return copies[key]
        if isinstance(value, dict):
            return {name: copied(inner) for name, inner in value.items()}
        if isinstance(value, list | tuple):
            return [copied(inner) for inner in value]
        return value

    return copied(tree)


def check_sums(folder: Path, *names: str) -> None:
    """Check the files of a folder against its checksums.

    Raises:
        ValueError: naming the file that is missing or has other bytes than were written.
        OSError: there are no checksums.
    """
    lines = (folder / SUMS).read_text(encoding="utf-8").split("\n")
    if [line.partition("  ")[2] for line in lines] != [*names, ""]:
        raise ValueError(f"{SUMS} has other bytes than were written")
    for path, _, found in changed_files(folder / SUMS):
        raise ValueError(f"{path.name} {'is missing' if found is None else 'has other bytes than were written'}")


def differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """The names whose values differ, sorted."""
    return sorted(key for key in old.keys() | new.keys() if old.get(key) != new.get(key))


def generator_states() -> dict[str, Any]:
    """Of this process: what `restore_generators` puts back."""
    states: dict[str, Any] = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        states["cuda"] = torch.cuda.get_rng_state()
    return states


def restore_generators(states: dict[str, Any]) -> None:
    """Put back what `generator_states` told; of a device that is not there, nothing."""
    torch.set_rng_state(states["cpu"])
    if torch.cuda.is_available() and "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"])
