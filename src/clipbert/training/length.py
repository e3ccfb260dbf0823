"""Number of epochs of a training: the task's epochs, or more of them when the training split is small."""

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class TrainingLength:
    """How long a training without `train.budget` takes.

    Attributes:
        epochs: visits of each training video.
        requested_epochs: the task's `epochs` parameter.
        steps_per_epoch: optimizer steps of one epoch.
        epochs_per_validation: epochs between two validations.
    """

    epochs: int
    requested_epochs: int
    steps_per_epoch: int
    epochs_per_validation: int

    @property
    def steps(self) -> int:
        """Optimizer steps of the whole training."""
        return self.epochs * self.steps_per_epoch


def training_length(
    examples: int, batch_size: int, gradient_accumulation_steps: int, requested_epochs: int, min_steps: int
) -> TrainingLength:
    """Return the number of epochs that gives at least `min_steps` optimizer steps.

    A small training split has few steps per epoch: 22 videos, batch size 32 and 8 epochs give 8 steps, in which a model
    learns nothing. The number of epochs is then raised. The number of validations stays about that of the requested
    epochs, because with one step per epoch they would take most of the time.

    Args:
        examples: videos of the training split.
        batch_size: `train.batch_size`.
        gradient_accumulation_steps: `train.gradient_accumulation_steps`.
        requested_epochs: the task's `epochs` parameter; 0: no training.
        min_steps: `train.min_steps`; 0 keeps the requested epochs.
    """
    videos = min(batch_size, examples)
    steps_per_epoch = examples // (videos * min(gradient_accumulation_steps, examples // videos))
    if requested_epochs == 0:
        return TrainingLength(0, 0, steps_per_epoch, 1)
    epochs = max(requested_epochs, math.ceil(min_steps / steps_per_epoch))
    return TrainingLength(epochs, requested_epochs, steps_per_epoch, max(1, epochs // requested_epochs))


def length_lines(
    task: str, videos: int, length: TrainingLength | None, min_steps: int, min_videos: int, pretrained: bool = False
) -> list[str]:
    """Return the messages about a training on a small split.

    Args:
        task: name of the task.
        videos: number of videos in the training split.
        length: number of epochs; None when `train.budget` ends the training.
        min_steps: `train.min_steps`.
        min_videos: `validate.min_train_videos`.
        pretrained: whether a part of the model starts from trained weights.
    """
    if length is not None and length.epochs == 0:
        return [f"{task}: tasks.{task}.epochs = 0: the initial weights are evaluated without training"]
    lines = []
    if videos < min_videos:
        fewer = f"{task}: warning: {videos} training videos are fewer than validate.min_train_videos = {min_videos}"
        scratch = "" if pretrained else "; a model that starts from random weights stays near chance"
        lines.append(f"{fewer}{scratch}. What to expect: `clipbert recommend`")
    if length is not None and length.epochs > length.requested_epochs:
        lines.append(
            f"{task}: {length.epochs} epochs instead of tasks.{task}.epochs = {length.requested_epochs}, for "
            f"train.min_steps = {min_steps} (an epoch of {videos} videos has {length.steps_per_epoch} "
            f"step{'s' if length.steps_per_epoch > 1 else ''}); validated every {length.epochs_per_validation} epochs"
        )
    return lines
