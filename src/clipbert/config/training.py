"""Section train of params.yaml: the optimisation and how it is carried out, the same for every task."""

from itertools import pairwise
from typing import Annotated, Literal

from pydantic import Field, field_validator

from clipbert.config.tasks import Fraction, Section
from clipbert.training.budget import Budget

# How a training is carried out, not what it computes: a checkpoint made with another of these is gone on from.
RUNTIME_ONLY = (
    "activation_checkpointing",
    "auto_microbatch",
    "checkpoint_every_steps",
    "compile",
    "keep_checkpoints",
    "max_bad_steps",
    "max_restarts",
    "num_workers",
    "processes",
)


class TrainParams(Section):
    """The optimisation, the same for every task."""

    batch_size: int = Field(32, ge=1, description="videos that go through the model at once, over all processes")
    gradient_accumulation_steps: int = Field(1, ge=1, le=4096, description="batches whose mean gradient makes one step")
    lr: float = Field(1.5e-3, gt=0, le=1, description="peak learning rate of the transformer and heads")
    vision_lr: float | None = Field(3e-4, gt=0, le=1, description="peak rate of the convolutions; null: the same as lr")
    lr_multipliers: dict[str, Annotated[float, Field(gt=0, le=1000)]] = Field(
        {}, description="of the rate of parameters whose name starts so, {clipbert.embeddings: 0.1}, say"
    )
    freeze_vision: bool = Field(False, description="the backbone keeps the weights it starts with")
    weight_decay: float = Field(0.05, ge=0, le=1, description="of matrices; biases and norms have none")
    schedule: Literal["linear", "cosine", "inverse_sqrt", "multi_step", "constant"] = Field(
        "linear", description="of the learning rate after the warm-up"
    )
    milestones: list[Fraction] = Field(
        [0.5, 0.75], description="schedule multi_step: shares of the steps after which the rate is multiplied by gamma"
    )
    gamma: float = Field(0.1, gt=0, le=1, description="schedule multi_step: the factor at each milestone")
    warmup_fraction: Fraction = Field(0.1, description="share of the steps in which the learning rate rises")
    budget: str | None = Field(
        None, description="what the training may take, instead of epochs: 900 s, 15 min, 2 h, 5000 steps, 400 kJ"
    )
    min_steps: int = Field(
        250,
        ge=0,
        description="smallest number of optimizer steps; a small training split gets more epochs; 0: the task's epochs",
    )
    max_grad_norm: float = Field(1.0, gt=0, description="largest norm of the gradient")
    label_smoothing: float = Field(
        0.0, ge=0, lt=1, description="share of a label that goes to all classes alike; image_qa's scores have none"
    )
    ema_decay: float | None = Field(
        None, gt=0, lt=1, description="of a running mean of the weights, which is validated and kept; null: none"
    )
    patience: int | None = Field(
        None, ge=1, description="epochs without a better main metric after which training ends; null: all epochs"
    )
    precision: Literal["auto", "fp32", "bf16", "fp16"] = Field(
        "auto", description="of matrix products and convolutions; auto: what the device does well; weights stay fp32"
    )
    activation_checkpointing: bool = Field(False, description="compute activations again in backward: less memory")
    compile: bool = Field(False, description="torch.compile; where that fails, the training goes on without")
    auto_microbatch: bool = Field(True, description="out of memory: the same step in smaller parts, from then on")
    max_bad_steps: int = Field(10, ge=0, description="steps left out because loss or gradient is no finite number")
    checkpoint_every_steps: int = Field(100, ge=1, description="besides one at the end of each epoch")
    keep_checkpoints: int = Field(2, ge=1, le=1000, description="the last so many; and that of the best epoch")
    processes: int = Field(1, ge=1, le=1024, description="on this machine, one a GPU; more: as torchrun does")
    max_restarts: int = Field(3, ge=0, description="of all processes after one died")
    num_workers: int = Field(0, ge=0, le=256, description="loader processes of each; 0 loads in the training process")

    @field_validator("milestones")
    @classmethod
    def _growing(cls, milestones: list[float]) -> list[float]:
        if not milestones or any(a >= b for a, b in pairwise(milestones)):
            raise ValueError("at least one share, each larger than the one before, as in [0.5, 0.75]")
        return milestones

    @field_validator("budget")
    @classmethod
    def _budget(cls, budget: str | None) -> str | None:
        if budget is not None:
            Budget.parse(budget)
        return budget
