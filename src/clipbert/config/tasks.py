"""The sections of params.yaml that belong to one task alone, and what every section is."""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

Fraction = Annotated[float, Field(ge=0, le=1)]


class Section(BaseModel):
    """A part of params.yaml: unknown keys and silent conversions are errors."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class RetrievalParams(Section):
    """Text-to-video retrieval."""

    epochs: int = Field(8, ge=1, description="visits of each training video")
    negatives: int = Field(2, ge=1, le=64, description="unmatched texts for each video in a step")
    hard_negatives: Fraction = Field(0.5, description="share of them drawn by likeness, the rest at random")
    contrastive_weight: float = Field(1.0, ge=0, description="of the in-batch contrastive term; 0 leaves it out")


class OpenQAParams(Section):
    """Open-ended question answering over a vocabulary of answers."""

    epochs: int = Field(18, ge=1, description="visits of each training video")
    questions_per_video: int = Field(4, ge=1, le=64, description="of a video drawn for one step")
    caption_weight: float = Field(
        1.0, ge=0, description="of the contrastive term, if all training videos have captions"
    )
    max_answers: int = Field(1500, ge=2, description="the most frequent training answers are the classes")


class MultipleChoiceParams(Section):
    """Question answering with a few options to choose from."""

    epochs: int = Field(18, ge=1, description="visits of each training video")
    questions_per_video: int = Field(2, ge=1, le=64, description="of a video drawn for one step, each with its options")
    caption_weight: float = Field(
        1.0, ge=0, description="of the contrastive term, if all training videos have captions"
    )


class ImageQAParams(OpenQAParams):
    """Question answering about images, with a score for each answer."""

    epochs: int = Field(30, ge=1, description="visits of each training image")
    questions_per_video: int = Field(4, ge=1, le=64, description="of an image drawn for one step")
    caption_weight: float = Field(0.2, ge=0, description="of the contrastive term on captions; 0 leaves it out")
    max_answers: int = Field(3129, ge=2, description="the most frequent training answers are the classes")


class CaptioningParams(Section):
    """A sentence for each video."""

    epochs: int = Field(24, ge=1, description="visits of each training video")
    contrastive_weight: float = Field(0.0, ge=0, description="of an in-batch contrastive term; 0: none")
    beams: int = Field(3, ge=1, le=64, description="of the search; 1: greedy")
    max_length: int = Field(64, ge=1, le=512, description="tokens of a generated caption, its end included")
    length_penalty: float = Field(1.0, ge=0, le=10, description="higher: longer captions; 0: the most probable one")
    no_repeat_ngram: int = Field(0, ge=0, le=64, description="so many tokens in a row never come twice; 0: they may")

    def search(self) -> dict[str, Any]:
        """How a caption is searched for, in evaluation and in the served model alike."""
        return self.model_dump(include={"beams", "max_length", "length_penalty", "no_repeat_ngram"})


class PretrainParams(Section):
    """Image-text pretraining: masked words, and whether a text belongs to its image."""

    epochs: int = Field(30, ge=1, description="visits of each training image")
    texts_per_image: int = Field(2, ge=1, le=64, description="of an image drawn for one step")
    mask_probability: Fraction = Field(0.15, description="share of the tokens that the model has to tell")
    unmatched_probability: Fraction = Field(0.5, description="share of the texts taken from another image")
    contrastive_weight: float = Field(1.0, ge=0, description="of a contrastive term beside them; 0 (the paper): none")


class TasksParams(Section):
    """What belongs to one task alone."""

    retrieval: RetrievalParams = RetrievalParams()
    open_qa: OpenQAParams = OpenQAParams()
    multiple_choice: MultipleChoiceParams = MultipleChoiceParams()
    image_qa: ImageQAParams = ImageQAParams()
    captioning: CaptioningParams = CaptioningParams()
    pretrain: PretrainParams = PretrainParams()
