"""The sections of params.yaml that belong to one task each, and the names of the tasks.

A task of another package adds its section with `clipbert.tasks.register_task` and announces itself as an entry point
of the group `clipbert.tasks`.
"""

import difflib
import functools
from importlib.metadata import EntryPoint, entry_points
from typing import Annotated, Any, ClassVar, Literal

from clipbert.config.models import BaseModel, ConfigDict, Field
from clipbert.errors import ClipBertError, first_line

ENTRY_POINTS = "clipbert.tasks"
Fraction = Annotated[float, Field(ge=0, le=1)]


class Section(BaseModel):
    """A part of params.yaml: unknown keys and silent conversions are errors."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class TaskSection(Section):
    """The parameters of one task: a subclass gives each of them a default, a range and a description.

    Attributes:
        listed_in: the parameter with the tasks that `dvc repro` trains: `tasks_run`, or `pretrain_run` for a task
            that trains a start for the others.
    """

    listed_in: ClassVar[str] = "tasks_run"

    epochs: int

    def generation(self) -> dict[str, Any]:
        """Return the settings of text generation, in evaluation and pipelines alike; empty if no text is generated."""
        return {}


class RetrievalParams(TaskSection):
    """Text-to-video retrieval."""

    epochs: int = Field(
        8,
        ge=0,
        description="passes over the training videos; 0: no training, for model.dual_encoder or model.init_from",
    )
    negatives: int = Field(2, ge=1, le=64, description="unmatched texts for each video in a step")
    hard_negatives: Fraction = Field(
        0.5, description="share of the unmatched texts drawn by similarity; the others are drawn uniformly"
    )
    contrastive_weight: float = Field(1.0, ge=0, description="weight of the in-batch contrastive loss; 0 disables it")
    cross_encoder: bool = Field(
        True,
        description="train the cross-encoder and add its log odds to the score; false: the dual encoder's score alone",
    )
    cross_encoder_start: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="fraction of the training after which the cross-encoder is trained too; before, it adds nothing to "
        "the score",
    )
    video_head: Literal["encoder", "direct"] = Field(
        "encoder",
        description="a video's vector in the dual encoder, without model.dual_encoder: encoder, by the text encoder "
        "over its visual tokens; direct, by a head over the backbone's mean features",
    )
    freeze_dual_encoder: bool = Field(False, description="keep the initial weights of model.dual_encoder")


class QuestionParams(TaskSection):
    """Fields of every task that answers questions about videos."""

    epochs: int = Field(18, ge=1, description="passes over the training videos")
    questions_per_video: int = Field(4, ge=1, le=64, description="questions drawn for each video in a step")
    caption_weight: float = Field(
        1.0,
        ge=0,
        description="weight of the contrastive loss on captions, used if all training videos have one",
    )


class OpenQAParams(QuestionParams):
    """Open-ended question answering with a vocabulary of answers."""

    max_answers: int = Field(1500, ge=2, description="size of the vocabulary: the most frequent training answers")


class MultipleChoiceParams(QuestionParams):
    """Multiple-choice question answering."""

    questions_per_video: int = Field(2, ge=1, le=64, description="questions drawn for each video in a step")


class ImageQAParams(OpenQAParams):
    """Question answering about images, with a score for each answer."""

    epochs: int = Field(30, ge=1, description="passes over the training images")
    questions_per_video: int = Field(4, ge=1, le=64, description="questions drawn for each image in a step")
    caption_weight: float = Field(
        0.2,
        ge=0,
        description="weight of the contrastive loss on captions, used if all training images have one",
    )
    max_answers: int = Field(3129, ge=2, description="size of the vocabulary: the most frequent training answers")


class CaptioningParams(TaskSection):
    """Video captioning."""

    epochs: int = Field(24, ge=1, description="passes over the training videos")
    contrastive_weight: float = Field(0.0, ge=0, description="weight of the in-batch contrastive loss; 0 disables it")
    beams: int = Field(3, ge=1, le=64, description="beams of the beam search; 1 is greedy search")
    max_length: int = Field(64, ge=1, le=512, description="maximum tokens of a generated caption, with its end token")
    length_penalty: float = Field(
        1.0, ge=0, le=10, description="exponent of the length normalization: higher values give longer captions"
    )
    no_repeat_ngram: int = Field(
        0, ge=0, le=64, description="n-grams of this size occur at most once in a caption; 0 disables the rule"
    )

    def generation(self) -> dict[str, Any]:
        return self.model_dump(include={"beams", "max_length", "length_penalty", "no_repeat_ngram"})


class PretrainParams(TaskSection):
    """Image-text pretraining: masked language modeling and image-text matching."""

    listed_in: ClassVar[str] = "pretrain_run"

    epochs: int = Field(30, ge=1, description="passes over the training images")
    texts_per_image: int = Field(2, ge=1, le=64, description="texts drawn for each image in a step")
    mask_probability: Fraction = Field(0.15, description="share of the tokens that the model predicts")
    unmatched_probability: Fraction = Field(0.5, description="share of the texts replaced by one of another image")
    contrastive_weight: float = Field(
        1.0, ge=0, description="weight of the in-batch contrastive loss; 0, as in the paper, disables it"
    )


class TasksParams(Section):
    """The section of each task, under the task's name; the fields are the list of the tasks."""

    retrieval: RetrievalParams = RetrievalParams()
    open_qa: OpenQAParams = OpenQAParams()
    multiple_choice: MultipleChoiceParams = MultipleChoiceParams()
    image_qa: ImageQAParams = ImageQAParams()
    captioning: CaptioningParams = CaptioningParams()
    pretrain: PretrainParams = PretrainParams()

    def section(self, task: str) -> TaskSection:
        """Return the section of the task called `task`."""
        found: TaskSection = getattr(self, task)
        return found


def task_names(listed_in: str | None = None) -> tuple[str, ...]:
    """Return the names of the registered tasks, then those of entry points that are not loaded yet.

    Args:
        listed_in: only registered tasks that this parameter can list (`TaskSection.listed_in`); None: all.
    """
    sections = TasksParams.model_fields.items()
    if listed_in is None:
        return tuple(dict.fromkeys([*TasksParams.model_fields, *(point.name for point in _installed())]))
    return tuple(name for name, field in sections if getattr(field.annotation, "listed_in", None) == listed_in)


def load_installed_tasks() -> None:
    """Import the tasks that installed packages announce as entry points of the group `clipbert.tasks`.

    Raises:
        ClipBertError: an entry point cannot be imported, or does not register a task of its name.
    """
    for point in _installed():
        if point.name in TasksParams.model_fields:
            continue
        package = "" if point.dist is None else f" of the package {point.dist.name}"
        where = f"The entry point {point.name} = {point.value} in the group {ENTRY_POINTS}{package}"
        try:
            point.load()
        except Exception as error:
            raise ClipBertError(
                f"{where} cannot be loaded: {type(error).__name__}: {first_line(error)}. Fix or uninstall the package."
            ) from error
        if point.name not in TasksParams.model_fields:
            raise ClipBertError(
                f"{where} registers no task called {point.name}: expected a class with @clipbert.tasks.register_task "
                "and this name."
            )


def check_task(task: str) -> str:
    """Return `task` if there is a task of that name.

    Raises:
        ClipBertError: there is none; the message lists the tasks.
    """
    if task not in TasksParams.model_fields:
        load_installed_tasks()
    if task not in TasksParams.model_fields:
        nearest = difflib.get_close_matches(task, task_names(), n=1)
        hint = f" Did you mean {nearest[0]}?" if nearest else ""
        raise ClipBertError(f"{task}: no such task; expected one of {', '.join(task_names())}.{hint}")
    return task


@functools.cache
def _installed() -> tuple[EntryPoint, ...]:
    return tuple(entry_points(group=ENTRY_POINTS))
