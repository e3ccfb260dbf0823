"""Section `train` of params.yaml: optimization and execution of a training, the same for every task."""

from itertools import pairwise
from typing import Annotated, Literal

from clipbert.config.budget import Budget
from clipbert.config.models import Field, field_validator, model_validator
from clipbert.config.tasks import Fraction, Section

# Parameters that change how a training runs and not what it computes: a checkpoint stays valid when they change.
RUNTIME_ONLY = (
    "activation_checkpointing",
    "auto_microbatch",
    "checkpoint_every_steps",
    "compile",
    "keep_checkpoints",
    "max_bad_steps",
    "max_restarts",
    "microbatch_size",
    "num_workers",
    "processes",
)


class AugmentParams(Section):
    """Random changes of the frames of a training video; the defaults change nothing."""

    min_crop_area: float = Field(
        1.0, gt=0, le=1, description="smallest area of a random resized crop, as a share of the frame; 1.0: no crop"
    )
    max_crop_ratio: float = Field(
        1.33, ge=1, le=4, description="largest factor by which a crop is wider or narrower than the frame"
    )
    brightness: float = Field(0.0, ge=0, le=1, description="largest relative change of the brightness")
    contrast: float = Field(0.0, ge=0, le=1, description="largest relative change of the contrast")
    saturation: float = Field(0.0, ge=0, le=1, description="largest relative change of the saturation")
    flip: Fraction = Field(
        0.0, description="probability of a horizontal flip; 0 where texts say left and right, as captions do"
    )

    @property
    def enabled(self) -> bool:
        """Whether frames are changed at all."""
        return self.min_crop_area < 1 or any((self.brightness, self.contrast, self.saturation, self.flip))


class TrainParams(Section):
    """Optimization and execution of a training."""

    batch_size: int = Field(32, ge=1, description="videos per forward pass, summed over all processes")
    gradient_accumulation_steps: int = Field(
        1,
        ge=1,
        le=4096,
        description="batches that are accumulated into one optimizer step; their gradients are averaged",
    )
    lr: float = Field(1.5e-3, gt=0, le=1, description="peak learning rate of the transformer and the heads")
    vision_lr: float | None = Field(
        3e-4, gt=0, le=1, description="peak learning rate of the convolutions; null: same as lr"
    )
    dual_encoder_lr: float = Field(
        1e-5, gt=0, le=1, description="peak learning rate of both encoders of model.dual_encoder in retrieval"
    )
    lr_multipliers: dict[str, Annotated[float, Field(gt=0, le=1000)]] = Field(
        {},
        description="learning rate multipliers by prefix of the parameter name, for example {clipbert.embeddings: 0.1}",
    )
    vision_lr_decay: float = Field(
        1.0,
        gt=0,
        le=1,
        description="factor of the backbone's learning rate from each layer to the one below it; 1.0: off",
    )
    freeze_vision: bool = Field(False, description="keep the initial weights of the backbone")
    unfreeze_at: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="fraction of the training after which the backbone that freeze_vision freezes is trained too; "
        "null: never",
    )
    feature_cache: bool = Field(
        False,
        description="compute the frozen backbone's features of every cached frame once, into artifacts/features, and "
        "train from them",
    )
    augment: AugmentParams = AugmentParams()
    weight_decay: float = Field(0.05, ge=0, le=1, description="weight decay of matrices; biases and norms have none")
    schedule: Literal["linear", "cosine", "inverse_sqrt", "multi_step", "constant"] = Field(
        "linear", description="learning rate schedule after the warm-up"
    )
    milestones: list[Fraction] = Field(
        [0.5, 0.75], description="schedule multi_step: fractions of the steps at which the rate is multiplied by gamma"
    )
    gamma: float = Field(0.1, gt=0, le=1, description="schedule multi_step: factor of the rate at each milestone")
    warmup_fraction: Fraction = Field(0.1, description="fraction of the steps in which the learning rate rises")
    budget: str | None = Field(
        None, description="budget of the training instead of epochs: 900 s, 15 min, 2 h, 5000 steps, 400 kJ"
    )
    min_steps: int = Field(
        250,
        ge=0,
        description="minimum number of optimizer steps; a small training split gets more epochs; 0: the task's epochs",
    )
    max_grad_norm: float = Field(1.0, gt=0, description="gradients with a larger norm are scaled down to it")
    label_smoothing: float = Field(
        0.0, ge=0, lt=1, description="label smoothing of the cross-entropy; image_qa's soft scores have none"
    )
    ema_decay: float | None = Field(
        None, gt=0, lt=1, description="decay of a moving average of the weights, which is validated and kept; null: off"
    )
    patience: int | None = Field(
        None, ge=1, description="epochs without improvement of the main metric after which training ends; null: off"
    )
    precision: Literal["auto", "fp32", "bf16", "fp16"] = Field(
        "auto",
        description="number type of matrix products and convolutions; auto: the fastest one; weights stay fp32",
    )
    activation_checkpointing: bool = Field(
        False, description="recompute activations in the backward pass: less memory, slower"
    )
    compile: bool = Field(False, description="use torch.compile; if it fails, training continues without it")
    auto_microbatch: bool = Field(
        True, description="split the batch when memory runs out, and make the same step in parts"
    )
    microbatch_size: int | None = Field(
        None,
        ge=1,
        description="videos of one part of a step, per process: the losses still compare the whole batch; null: all, "
        "unless memory runs out",
    )
    max_bad_steps: int = Field(10, ge=0, description="tolerated number of steps with a non-finite loss or gradient")
    checkpoint_every_steps: int = Field(100, ge=1, description="steps between checkpoints, in addition to each epoch's")
    keep_checkpoints: int = Field(2, ge=1, le=1000, description="recent checkpoints to keep, besides the best epoch's")
    processes: int = Field(1, ge=1, le=1024, description="training processes on this machine, at most one per GPU")
    max_restarts: int = Field(3, ge=0, description="restarts of all processes after one of them has died")
    num_workers: int = Field(0, ge=0, le=256, description="data loader processes per training process; 0: no extra one")

    @field_validator("milestones")
    @classmethod
    def _check_milestones(cls, milestones: list[float]) -> list[float]:
        if not milestones or any(a >= b for a, b in pairwise(milestones)):
            raise ValueError("at least one fraction, each larger than the one before, as in [0.5, 0.75]")
        return milestones

    @model_validator(mode="after")
    def _check_microbatch_size(self) -> "TrainParams":
        if self.microbatch_size is not None and self.microbatch_size > self.batch_size:
            raise ValueError(
                f"microbatch_size is {self.microbatch_size}, more than batch_size, {self.batch_size}: expected at most "
                "the whole batch. Set microbatch_size lower, or to null"
            )
        return self

    @model_validator(mode="after")
    def _check_unfreeze_at(self) -> "TrainParams":
        if self.unfreeze_at is not None and not self.freeze_vision:
            raise ValueError(
                f"unfreeze_at is {self.unfreeze_at} and freeze_vision false: the backbone is trained from the start. "
                "Set freeze_vision to true, or unfreeze_at to null"
            )
        return self

    @model_validator(mode="after")
    def _check_feature_cache(self) -> "TrainParams":
        if self.feature_cache and not self.freeze_vision:
            raise ValueError(
                "feature_cache is true and freeze_vision false: the features of a backbone that learns change with "
                "every step. Set freeze_vision to true, or feature_cache to false"
            )
        if self.feature_cache and self.unfreeze_at is None and self.augment.enabled:
            raise ValueError(
                "feature_cache is true, so no pixels are read that augment could change. Set feature_cache to false, "
                "unfreeze_at to a fraction from which on pixels are read, or augment to its defaults"
            )
        return self

    @field_validator("budget")
    @classmethod
    def _check_budget(cls, budget: str | None) -> str | None:
        if budget is not None:
            Budget.parse(budget)
        return budget
