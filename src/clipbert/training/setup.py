"""Model and processor of a new training, from the training texts and the parameters."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerFast

from clipbert.config.schema import FramesParams, ModelParams
from clipbert.console import console
from clipbert.errors import ClipBertError
from clipbert.model import ClipBertConfig, ClipBertProcessor
from clipbert.model.tokenizer import unwritable
from clipbert.model.weights.init_from import Start, parts
from clipbert.model.weights.pretrained import Part, TextPart, check_grid, read_text, read_vision, without_text_sizes
from clipbert.tasks.base import Task
from clipbert.tasks.batch import Example

MAX_CHECKED = 2000  # captions


def build_model(
    task: Task,
    examples: list[Example],
    model_params: ModelParams,
    frames: FramesParams,
    eval_clips: int,
    extra_texts: Iterable[str] = (),
) -> tuple[Any, ClipBertProcessor]:
    """Create the model and the processor that a training starts from.

    The model has the preset's sizes and a WordPiece vocabulary learned from the training texts; the backbone
    `model.vision` and the text encoder and tokenizer `model.text` replace its parts. With `model.init_from` all weights
    and the tokenizer come from that folder.

    Args:
        examples: of the training split.
        model_params: section `model`.
        frames: section `frames`, stored with the processor.
        eval_clips: clips per video in evaluation, stored with the processor; `config.clips` is that of training.
        extra_texts: training texts of other tasks, also used to learn the vocabulary.

    Raises:
        ClipBertError: parameters contradict each other (hidden size and heads, for example), or initial weights cannot
            be read.
    """
    settings = _inference_settings(task, frames, eval_clips)
    if model_params.start_from is not None:
        for name, value in (("vision", model_params.vision_from), ("text", model_params.text_from)):
            if value is not None:
                raise ClipBertError(
                    f"params.yaml: model.init_from = {model_params.init_from} and model.{name} = {value}: the folder "
                    f"of init_from has its own {name}. Set one of the two to null."
                )
        return _build_from_folder(task, examples, model_params, Path(model_params.start_from), settings)
    vision = None if model_params.vision_from is None else read_vision(model_params.vision_from)
    text = None if model_params.text_from is None else read_text(model_params.text_from)
    overrides = model_params.overrides()
    fields: dict[str, Any] = {} if vision is None else vision.fields
    if text is not None:
        tokenizer, overrides = text.tokenizer, without_text_sizes(overrides, text)
        _warn_unwritable(task, examples, tokenizer, f"model.text ({text.source})")
        fields = fields | text.fields
    else:
        tokenizer = _learn_tokenizer(task, examples, model_params.vocab_size, extra_texts)
        fields = fields | {"vocab_size": len(tokenizer)}
    preset = {"tiny": ClipBertConfig.tiny, "base": ClipBertConfig.base}[model_params.preset]
    try:
        config = preset(**(fields | overrides | task.objective.config_fields(examples)))
    except ValueError as error:
        sources = ", ".join(f"{part.source}" for part in (vision, text) if part is not None)
        raise ClipBertError(f"params.yaml: model: {error}{f' (with what {sources} has)' if sources else ''}") from error
    _check_frames(frames, config.image_size, vision)
    model = task.objective.model_class(config)
    _load_parts(task, model, vision, text)
    return model, ClipBertProcessor.for_config(config, tokenizer, **settings)


def _check_frames(frames: FramesParams, image_size: int, vision: Part | None) -> None:
    """Check that cached frames are not enlarged; params.yaml alone cannot tell where `vision` sets the image size.

    Raises:
        ClipBertError: naming both sizes.
    """
    if vision is not None and frames.size < image_size:
        raise ClipBertError(
            f"params.yaml: frames.size = {frames.size} is smaller than the image size {image_size} of model.vision "
            f"({vision.source}): cached frames would be enlarged. Set frames.size to {image_size} or more, or "
            f"model.image_size to {frames.size} or less."
        )


def _inference_settings(task: Task, frames: FramesParams, eval_clips: int) -> dict[str, Any]:
    """Return the processor's settings with which evaluation measures the model and pipelines use it."""
    return {"clips": eval_clips, "frames": frames, "generation": task.params.generation() or None}


def _learn_tokenizer(
    task: Task, examples: list[Example], vocab_size: int, extra_texts: Iterable[str]
) -> PreTrainedTokenizerFast:
    """Return a WordPiece tokenizer of all texts that the task reads in training, and of `extra_texts`."""
    items = ((example, item) for example in examples for item in range(len(example.texts)))
    read = {text for example, item in items for text in task.examples.input_texts(example, item)}
    texts = sorted(read | {text for example in examples for text in example.captions} | set(extra_texts))
    return ClipBertProcessor.train_tokenizer(texts, vocab_size=vocab_size)


def _load_parts(task: Task, model: Any, vision: Part | None, text: TextPart | None) -> None:
    """Load the weights of the backbone and the text encoder into the model, and print their origin."""
    for name, part in (("vision", vision), ("text", text)):
        if part is not None:
            given = part.give(model)
            console.print(f"{task.name}: {given} weights of model.{name} from {part.source}; {part.remark}")
    if vision is not None:
        rows, cols = check_grid(model, vision.source)
        console.print(f"{task.name}: frames of {model.config.image_size} pixels are {rows} x {cols} cells")


def _warn_unwritable(task: Task, examples: list[Example], tokenizer: PreTrainedTokenizerFast, source: str) -> None:
    """Print how many training captions a tokenizer that was not learned from them can never generate."""
    if not task.objective.generates_text:
        return
    texts = [text for example in examples for text in example.texts][:MAX_CHECKED]
    lost = unwritable(tokenizer, texts)
    if lost:
        text, back = lost[0]
        console.print(
            f"{task.name}: the tokenizer of {source} cannot write {len(lost)} of {len(texts)} training captions; "
            f"{text!r} becomes {back!r}. It strips accents or lacks characters, so generated captions cannot have them "
            "and score below the maximum. Use a cased or multilingual checkpoint, or set the parameter to null: the "
            "tokenizer is then learned from your captions."
        )


def _build_from_folder(
    task: Task, examples: list[Example], model_params: ModelParams, folder: Path, settings: dict[str, Any]
) -> tuple[Any, ClipBertProcessor]:
    """Create the model and the processor from the folder `model.init_from`."""
    begin = Start.read(folder)
    try:
        config = begin.config(model_params.overrides(), task.objective.config_fields(examples))
    except ValueError as error:
        raise ClipBertError(f"params.yaml: model: {error}") from error
    model = task.objective.model_class(config)
    _warn_unwritable(task, examples, begin.processor.tokenizer, f"model.init_from ({folder})")
    fresh = begin.give(model)
    console.print(f"{task.name} starts from {folder}; fresh: {parts(fresh) or 'nothing'}")
    return model, ClipBertProcessor.for_config(config, begin.processor.tokenizer, **settings)
