"""The settings of a served model: those stored in its model folder, which `clipbert.pipeline` uses too."""

from pathlib import Path
from typing import Any

from clipbert.config.schema import Params
from clipbert.model.processor import FRAME_SETTINGS, ClipBertProcessor
from clipbert.tasks.presentation import TOP_K


def served_settings(task: str, model_dir: Path, params: Params) -> dict[str, Any]:
    """Return the settings with which MLflow serves a model folder.

    What changes scores (clips, candidate frames, caption search) is that of the folder, as in a pipeline. What does not
    (time limits, batch size) is that of params.yaml.
    """
    processor = ClipBertProcessor.from_pretrained(model_dir)
    settings = {
        "task": task,
        **processor.candidates.model_dump(include=set(FRAME_SETTINGS)),
        "timeout_s": params.frames.timeout_s,
        "clips": processor.clips,
        "batch_size": params.evaluate.batch_size,
        "top_k": TOP_K,
    }
    return settings | params.tasks.section(task).generation() | (processor.generation or {})


def differences_from_evaluation(task: str, model_dir: Path, params: Params) -> str | None:
    """Return a line that names the settings in which the served model differs from params.yaml; None: in none."""
    settings = served_settings(task, model_dir, params)
    evaluated = {"evaluate.clips": ("clips", params.evaluate.clips)}
    evaluated |= {f"frames.{name}": (name, getattr(params.frames, name)) for name in FRAME_SETTINGS}
    generation = params.tasks.section(task).generation()
    evaluated |= {f"tasks.{task}.{name}": (name, value) for name, value in generation.items()}
    differing = [
        f"{name} = {settings[name]} (params.yaml: {parameter} = {value})"
        for parameter, (name, value) in evaluated.items()
        if settings[name] != value
    ]
    if not differing:
        return None
    return (
        f"{task}: the served model and pipelines use the settings of {model_dir}: {', '.join(differing)}. Scores of "
        "the evaluation with params.yaml may differ from theirs. Train again to store the settings of params.yaml."
    )
