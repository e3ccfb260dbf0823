"""Measurement of `confidence.json` at the end of a training, on its training and validation examples."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from clipbert.evaluation.metrics.calibration import expected_calibration_error, fit_temperature, tempered
from clipbert.model import ClipBertForMultipleChoice, ClipBertForOpenQA
from clipbert.model.confidence import Calibration, Confidence, KnownVideos, mean_tokens, training_words
from clipbert.tasks.base import thinned
from clipbert.tasks.batch import Example
from clipbert.tasks.predict import encode_videos
from clipbert.tasks.scoring import ProcessorTokens, answer_probabilities, option_probabilities, option_texts
from clipbert.text_normalization import normalize_text

MOST_VIDEOS = 400
MOST_QUESTIONS = 1000
FEWEST = 20  # videos or questions: fewer tell too little


@torch.inference_mode()
def measure_confidence(
    model: Any,
    processor: Any,
    cache: Any,
    train: list[Example],
    val: list[Example],
    batch_size: int,
) -> Confidence:
    """Return what a model folder stores about trust in an answer.

    Args:
        cache: the frame cache, or the feature cache that the model reads.
        train, val: examples; of many, evenly spaced ones are taken.
        batch_size: text-video pairs in one forward pass.
    """
    was_training = model.training
    model.eval()
    texts = (text for example in train for text in _texts(example))
    known = KnownVideos.fit(*pooled) if (pooled := _pooled(model, processor, cache, train, val)) else None
    found = Confidence(_calibration(model, processor, cache, val, batch_size), known, training_words(texts))
    model.train(was_training)
    return found


def _texts(example: Example) -> list[str]:
    return [*example.texts, *example.answers, *example.captions, *(each for own in example.options for each in own)]


def _pooled(
    model: Any, processor: Any, cache: Any, train: list[Example], val: list[Example]
) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
    """Return the features (videos, hidden) of training and validation videos; None where there are few."""
    found = []
    for examples in (train, val):
        own = {example.key: example for example in examples}
        names = list(own)
        chosen = np.unique(np.linspace(0, len(names) - 1, min(MOST_VIDEOS, len(names))).round().astype(int)).tolist()
        if len(chosen) < FEWEST:
            return None
        some = [own[names[place]] for place in chosen]
        encoded = encode_videos(model, processor, cache, some, processor.clips)
        found.append(np.stack([mean_tokens(embeds) for embeds in encoded.visual_embeds]))
    return found[0], found[1]


def _calibration(model: Any, processor: Any, cache: Any, val: list[Example], batch_size: int) -> Calibration | None:
    """Return the temperature of a model that gives the answers to a question probabilities; None for others."""
    answers = isinstance(model, ClipBertForOpenQA) and model.config.answer_loss == "ce"
    if not answers and not isinstance(model, ClipBertForMultipleChoice):
        return None
    examples = thinned(val, MOST_QUESTIONS)
    questions = [(example, i) for example in examples for i in range(len(example.texts))]
    if len(questions) < FEWEST:
        return None
    tokenize = ProcessorTokens(processor, model.device)
    encoded = encode_videos(model, processor, cache, examples, processor.clips)
    widest = len(model.config.answers) if answers else max(len(e.options[i]) for e, i in questions)
    probabilities = np.zeros((len(questions), widest))
    for start in range(0, len(questions), batch_size if answers else 1):
        some = questions[start : start + (batch_size if answers else 1)]
        visual = encoded.of(example.key for example, _ in some)
        if answers:
            rows = answer_probabilities(model, visual, *tokenize([example.texts[i] for example, i in some]))
        else:
            ((example, i),) = some
            tokens = tokenize(option_texts(example.texts[i], example.options[i]))
            counts = torch.tensor([len(example.options[i])], device=model.device)
            rows = option_probabilities(model, visual, *tokens, counts)
        probabilities[start : start + len(some), : rows.shape[1]] = rows.double().cpu().numpy()
    right = np.array([_right(model, example, i) for example, i in questions])
    known = right >= 0
    if known.sum() < FEWEST:
        return None
    temperature = fit_temperature(probabilities[known], right[known])
    ece = []
    for rows_of in (probabilities, tempered(probabilities, temperature)):
        ece.append(expected_calibration_error(rows_of.max(axis=1).tolist(), (rows_of.argmax(axis=1) == right).tolist()))
    return Calibration(round(temperature, 4), len(questions), round(ece[0], 2), round(ece[1], 2))


def _right(model: Any, example: Example, item: int) -> int:
    """Return the right class of a question; -1 for an answer outside the vocabulary."""
    if isinstance(model, ClipBertForMultipleChoice):
        return example.right[item]
    known = {normalize_text(answer): label for label, answer in enumerate(model.config.answers)}
    return known.get(normalize_text(example.answers[item]), -1)
