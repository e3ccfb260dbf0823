"""ClipBERT (Lei et al., CVPR 2021) as transformers models: configuration, models, processor."""

from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForMultipleChoice,
    AutoModelForPreTraining,
    AutoModelForVisualQuestionAnswering,
    AutoProcessor,
)

from clipbert.model.captioning import ClipBertCaptioningOutput, ClipBertForCaptioning
from clipbert.model.configuration import ClipBertConfig
from clipbert.model.generation import Decoding
from clipbert.model.heads import ClipBertForMultipleChoice, ClipBertForOpenQA, ClipBertForRetrieval, ClipBertOutput
from clipbert.model.modeling import ClipBertModel, ClipBertModelOutput
from clipbert.model.pretraining import ClipBertForPreTraining, ClipBertPreTrainingOutput
from clipbert.model.processor import ClipBertProcessor
from clipbert.model.weights.load import load

__all__ = [
    "ClipBertCaptioningOutput",
    "ClipBertConfig",
    "ClipBertForCaptioning",
    "ClipBertForMultipleChoice",
    "ClipBertForOpenQA",
    "ClipBertForPreTraining",
    "ClipBertForRetrieval",
    "ClipBertModel",
    "ClipBertModelOutput",
    "ClipBertOutput",
    "ClipBertPreTrainingOutput",
    "ClipBertProcessor",
    "Decoding",
    "load",
]

AutoConfig.register(ClipBertConfig.model_type, ClipBertConfig)
AutoModel.register(ClipBertConfig, ClipBertModel)
AutoModelForMultipleChoice.register(ClipBertConfig, ClipBertForMultipleChoice)
AutoModelForPreTraining.register(ClipBertConfig, ClipBertForPreTraining)
AutoModelForVisualQuestionAnswering.register(ClipBertConfig, ClipBertForOpenQA)
AutoProcessor.register(ClipBertConfig, ClipBertProcessor)
