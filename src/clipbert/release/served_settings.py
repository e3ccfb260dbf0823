"""Settings of a served model: those stored in its model folder, which `clipbert.pipeline` uses too."""

from pathlib import Path
from typing import Any

from clipbert.config.schema import EvaluateParams, FramesParams
from clipbert.config.tasks import TaskSection
from clipbert.model.processor import ClipBertProcessor
from clipbert.model.processor_file import FRAME_SETTINGS
from clipbert.tasks.presentation import TOP_K


def served_settings(
    task: str, model_dir: Path, evaluate: EvaluateParams, frames: FramesParams, task_params: TaskSection
) -> dict[str, Any]:
    """Return the settings with which MLflow serves a model folder.

    Settings that change scores (clips, candidate frames, caption search) come from the folder, as in a pipeline. Those
    that do not (time limit, batch size) come from params.yaml.

    Args:
        task: the task.
        model_dir: the model folder.
        evaluate, frames, task_params: sections of params.yaml, the last one that of the task.
    """
    processor = ClipBertProcessor.from_pretrained(model_dir)
    settings = {
        "task": task,
        **processor.candidates.model_dump(include=set(FRAME_SETTINGS)),
        "timeout_s": frames.timeout_s,
        "clips": processor.clips,
        "batch_size": evaluate.batch_size,
        "top_k": TOP_K,
    }
    return settings | task_params.generation() | (processor.generation or {})


def describe_differences(
    model_dir: Path, settings: dict[str, Any], evaluate: EvaluateParams, frames: FramesParams, task_params: TaskSection
) -> str | None:
    """Return a line that names the served settings that differ from params.yaml; None if none does.

    Args:
        model_dir: the model folder.
        settings: what `served_settings` returned for the same arguments.
        evaluate, frames, task_params: sections of params.yaml, the last one that of the task.
    """
    task = settings["task"]
    evaluated = {"evaluate.clips": ("clips", evaluate.clips)}
    evaluated |= {f"frames.{name}": (name, getattr(frames, name)) for name in FRAME_SETTINGS}
    evaluated |= {f"tasks.{task}.{name}": (name, value) for name, value in task_params.generation().items()}
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
