"""The model card of a training: what it was made from, with which parameters, and how far it came on validation."""

from collections.abc import Mapping
from pathlib import Path

from clipbert.config.schema import ModelParams
from clipbert.model.weights.card import model_card, table
from clipbert.training.checkpoint import TrainState
from clipbert.training.trainer import Run


def training_card(run: Run, state: TrainState, folder: Path, origin: Mapping[str, str]) -> str:
    """The card of the model that `run` ends with, to lie in `folder`.

    `origin`: the tags of its tracked run, `clipbert.data_digest`, `clipbert.git_commit` and more. Test metrics are
    not there yet: evaluation comes later, and the registered model's card has them.
    """
    task = run.task
    known = {name.removeprefix("clipbert."): value for name, value in origin.items()}
    inputs = {name: value for name, value in run.checkpoints.fingerprint.items() if _is_input(name)}
    parameters = {name: value for name, value in run.checkpoints.fingerprint.items() if not _is_input(name)}
    splits = [
        (name, len(some), sum(len(example.texts) for example in some))
        for name, some in (("train", run.train), ("val", run.val))
    ]
    made = [
        ("data/, as DVC hashes it", known.get("data_digest", "none")),
        *((f"{name}, SHA-256", value) for name, value in sorted(inputs.items())),
        ("git commit", _commit(known)),
        ("clipbert", known.get("version", "none")),
        ("weights at the start", _start(run.params.model)),
        ("MLflow run", f"artifacts/runs/{task.name}.json"),
    ]
    sections = {
        "Data": table(("split", "media", "texts"), splits),
        "Lineage": table(("made from", ""), made),
        "Parameters": table(("parameter", "value"), sorted(parameters.items())),
    }
    best = next((row for row in state.validation if row["step"] == state.best_step), None)
    if best is not None:
        rows = [(name, round(value, 4)) for name, value in sorted(best.items()) if name not in ("step", "epoch")]
        epochs = state.validation[-1]["epoch"]
        chosen = f"Epoch {state.best_epoch} of {epochs}, the best by {task.main_metric}."
        sections["Validation"] = f"{chosen}\n\n{table(('metric', 'value'), rows)}"
    return model_card(task.name, str(folder), task.model_class().__name__, sections)


def _is_input(name: str) -> bool:
    """Whether an entry of the fingerprint is a file's checksum rather than a parameter."""
    return name.endswith(".parquet") or " " in name


def _start(model: ModelParams) -> str:
    parts = ((model.vision_from, "the backbone of"), (model.text_from, "the encoder of"))
    return model.start_from or ", ".join(f"{which} {start}" for start, which in parts if start) or "random"


def _commit(known: Mapping[str, str]) -> str:
    dirty = " and changes that were not committed" if known.get("git_dirty") == "true" else ""
    return known.get("git_commit", "none") + dirty
