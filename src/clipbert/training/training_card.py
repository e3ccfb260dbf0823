"""Model card of a training: its data, code, parameters and validation metrics."""

from collections.abc import Mapping
from pathlib import Path

from clipbert.config.schema import ModelParams
from clipbert.model.weights.card import folded, model_card, table
from clipbert.training.trainer import Trainer


def training_card(trainer: Trainer, model: ModelParams, folder: Path, origin: Mapping[str, str]) -> str:
    """Return the text of the card of the model that a training has ended with.

    Test metrics are not in it, because evaluation comes later; the card of the registered model has them.

    Args:
        model: section `model`, for the initial weights.
        folder: of the model, relative to the project.
        origin: tags of the tracked run, `clipbert.data_digest`, `clipbert.git_commit` and more.
    """
    task, state, fingerprint = trainer.task, trainer.state, trainer.checkpoints.fingerprint
    known = {name.removeprefix("clipbert."): value for name, value in origin.items()}
    inputs = {name: value for name, value in fingerprint.items() if _is_input(name)}
    parameters = {name: value for name, value in fingerprint.items() if not _is_input(name)}
    counts = [
        (name, len(examples), sum(len(example.texts) for example in examples))
        for name, examples in (("train", trainer.train_examples), ("val", trainer.val_examples))
    ]
    lineage = [
        ("data/, as DVC hashes it", known.get("data_digest", "none")),
        *((f"{name}, SHA-256", value) for name, value in sorted(inputs.items())),
        ("git commit", _commit(known)),
        ("clipbert", known.get("version", "none")),
        ("weights at the start", _initial_weights(model)),
        ("MLflow run", f"artifacts/runs/{task.name}.json"),
    ]
    settings = sorted(parameters.items())
    sections = {
        "Data": table(("split", "media", "texts"), counts),
        "Lineage": table(("made from", ""), lineage),
        "Parameters": folded(f"{len(parameters)} parameters", table(("parameter", "value"), settings)),
    }
    best = next((row for row in state.validation if row["step"] == state.best_step), None)
    if best is not None:
        rows = [(name, round(value, 4)) for name, value in sorted(best.items()) if name not in ("step", "epoch")]
        epochs = state.validation[-1]["epoch"]
        chosen = f"Epoch {state.best_epoch} of {epochs}, the best by {task.evaluator.main_metric}."
        if state.step == 0:
            chosen = "The initial weights, without training."
        sections["Validation"] = f"{chosen}\n\n{table(('metric', 'value'), rows)}"
    return model_card(task.card, str(folder), task.objective.model_class.__name__, sections)


def _is_input(name: str) -> bool:
    """Return whether an entry of the fingerprint is a file's checksum rather than a parameter."""
    return name.endswith(".parquet") or " " in name


def _initial_weights(model: ModelParams) -> str:
    parts = (
        (model.dual_encoder_from, "the dual encoder of"),
        (model.vision_from, "the backbone of"),
        (model.text_from, "the encoder of"),
    )
    return model.start_from or ", ".join(f"{which} {start}" for start, which in parts if start) or "random"


def _commit(known: Mapping[str, str]) -> str:
    dirty = " and changes that were not committed" if known.get("git_dirty") == "true" else ""
    return known.get("git_commit", "none") + dirty
