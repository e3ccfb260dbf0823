"""Expected time of each stage with the recipe `small`, from rates that were measured on a CPU.

docs/how-to/small.md has the measurements from which the rates are computed, and their command.
"""

from dataclasses import dataclass
from typing import Any

from clipbert.recommend.data_summary import ManifestData, TaskData
from clipbert.recommend.machine import Machine
from clipbert.training.length import training_length

RATES_FROM = "from the rates of one AMD EPYC core, without a GPU and other work (docs/how-to/small.md)"
# Processor seconds of one thread: fixed ones of a command, and those of each unit of its work.
VALIDATE_S = 18.0
FRAMES_S, FRAMES_CANDIDATE_S, FRAMES_MEGAPIXEL_S = 3.4, 0.0019, 0.0037
PARTS_S = 10.0
TRAIN_S = 18.5
FEATURES_FRAME_S = 0.0177
STEP_S, STEP_VIDEO_S = 0.06, 0.0039  # a training step, and one video with its caption in it
VALIDATION_S, VALIDATION_TEXT_S = 0.82, 0.0032
EVALUATE_S, EVALUATE_TEXT_S = 19.3, 0.01
REGISTER_S = 28.0
PEAK_MEMORY_BYTES = 5_300_000_000  # of the training process with batches of 128 videos
VALIDATION_TEXTS = 500  # captions that a validation of a dual encoder ranks at most


@dataclass(frozen=True)
class StageTime:
    """Expected time of a stage.

    Attributes:
        stage: its name.
        seconds: wall-clock time on this machine; None: not measured.
        work: what takes the time.
    """

    stage: str
    seconds: float | None
    work: str


def stage_times(manifest: ManifestData, tasks: list[TaskData], params: Any, machine: Machine) -> list[StageTime]:
    """Return the expected times of the stages after ingest; those of no stage without the recipe `small`.

    Args:
        params: the parameters with recipe and overrides.
    """
    if params.model.preset != "small":
        return [StageTime(f"train@{task.task}", None, "see docs/tutorial/first-run.md") for task in tasks]
    frames, media = manifest.candidate_frames(params.frames), len(manifest.videos)
    decoding = FRAMES_CANDIDATE_S * frames + FRAMES_MEGAPIXEL_S * manifest.megapixels
    times = [
        StageTime("validate", VALIDATE_S, f"{media} media"),
        StageTime("frames", FRAMES_S + decoding / machine.cores, f"{frames} frames of {media} media"),
        StageTime("pretrained_parts", PARTS_S, "folders in models/"),
    ]
    for task in tasks:
        name, tested = task.task, task.texts["test"]
        if name != "retrieval":
            times.append(StageTime(f"train@{name}", None, "not measured with this recipe"))
            continue
        work, training = _retrieval(task, params)
        work = f"features of {frames} frames, {work}"
        times += [
            StageTime(f"train@{name}", TRAIN_S + FEATURES_FRAME_S * frames + training, work),
            StageTime(f"evaluate@{name}", EVALUATE_S + EVALUATE_TEXT_S * tested, f"{tested} test texts"),
            StageTime(f"register@{name}", REGISTER_S, "MLflow registry"),
        ]
    return times


def _retrieval(task: TaskData, params: Any) -> tuple[str, float]:
    """Return the training of retrieval in words, and its processor seconds without the features."""
    train, items = params.train, task.items["train"]
    epochs = params.tasks.retrieval.epochs
    length = training_length(items, train.batch_size, train.gradient_accumulation_steps, epochs, train.min_steps)
    batch = min(train.batch_size, items) * min(train.gradient_accumulation_steps, items // min(train.batch_size, items))
    validations = length.epochs // length.epochs_per_validation
    texts = min(VALIDATION_TEXTS, task.texts["val"])
    seconds = (STEP_S + STEP_VIDEO_S * batch) * length.steps + (VALIDATION_S + VALIDATION_TEXT_S * texts) * validations
    return f"{length.steps} steps of {batch} videos, {validations} validations", seconds
