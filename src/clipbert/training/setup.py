"""Model and processor of a new training, from the training texts and the parameters."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerFast

from clipbert.config.schema import FramesParams, ModelParams
from clipbert.console import console
from clipbert.errors import ClipBertError
from clipbert.model import ClipBertConfig, ClipBertProcessor
from clipbert.model.tokenizer import unknown_share, unwritable
from clipbert.model.weights.init_from import Start, parts
from clipbert.model.weights.pretrained import Part, check_grid, read_text, read_vision, without_text_sizes
from clipbert.model.weights.pretrained_dual import read_dual_encoder
from clipbert.tasks.base import Task
from clipbert.tasks.batch import Example

MAX_CHECKED = 2000  # captions
MAX_UNKNOWN = 0.01  # share of a text's tokens; emoji and rare signs stay below


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
    `model.vision` and the text encoder and tokenizer `model.text` replace its parts. `model.dual_encoder` gives a
    retrieval model its dual encoder, and every model its backbone. With `model.init_from` all weights and the
    tokenizers come from that folder.

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
    if model_params.resize is not None:
        settings["resize"] = model_params.resize
    _check_sources(task, model_params)
    if model_params.start_from is not None:
        return _build_from_folder(task, examples, model_params, Path(model_params.start_from), settings)
    dual_source = model_params.dual_encoder_from
    dual, vision = None, None
    if dual_source is not None and task.objective.uses_dual_encoder:
        dual = read_dual_encoder(dual_source)
        settings = {"dual_tokenizer": dual.tokenizer, "resize": dual.resize} | settings
    elif dual_source is not None:
        vision = read_vision(dual_source, "model.dual_encoder")
    elif model_params.vision_from is not None:
        vision = read_vision(model_params.vision_from)
    text = None if model_params.text_from is None else read_text(model_params.text_from)
    overrides = model_params.overrides()
    fields: dict[str, Any] = {} if vision is None else vision.fields
    if dual is not None:
        fields = dual.fields
    if text is not None:
        tokenizer, overrides = text.tokenizer, without_text_sizes(overrides, text)
        _warn_unknown(task, examples, tokenizer, f"model.text ({text.source})")
        _warn_unwritable(task, examples, tokenizer, f"model.text ({text.source})")
        fields = fields | text.fields
    else:
        tokenizer = _learn_tokenizer(task, examples, model_params.vocab_size, extra_texts)
        fields = fields | {"vocab_size": len(tokenizer)}
    try:
        fixed = {} if dual is None else {"projection_size": dual.fields["projection_size"]}
        of_task = task.objective.config_fields(examples)
        config = ClipBertConfig.preset(model_params.preset, **(fields | overrides | of_task | fixed))
    except ValueError as error:
        sources = ", ".join(f"{part.source}" for part in (dual, vision, text) if part is not None)
        raise ClipBertError(f"params.yaml: model: {error}{f' (with what {sources} has)' if sources else ''}") from error
    _check_frames(frames, config.image_size, dual or vision, "dual_encoder" if dual_source else "vision")
    model = task.objective.model_class(config)
    if dual is not None:
        model.start_at_zero_shot()
    _load_parts(task, model, {"dual_encoder" if dual_source else "vision": dual or vision, "text": text})
    return model, ClipBertProcessor.for_config(config, tokenizer, **settings)


def _check_frames(frames: FramesParams, image_size: int, vision: Part | None, parameter: str) -> None:
    """Check that cached frames are not enlarged; params.yaml alone cannot tell where a part sets the image size.

    Args:
        parameter: of section `model`, from which `vision` is.

    Raises:
        ClipBertError: naming both sizes.
    """
    if vision is not None and frames.size < image_size:
        raise ClipBertError(
            f"params.yaml: frames.size = {frames.size} is smaller than the image size {image_size} of "
            f"model.{parameter} ({vision.source}): cached frames would be enlarged. Set frames.size to {image_size} or "
            f"more, or model.image_size to {frames.size} or less."
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


def _check_sources(task: Task, model_params: ModelParams) -> None:
    """Check that no two parameters of section `model` give the same part, and that a task without training has one.

    Raises:
        ClipBertError: naming the two parameters.
    """
    given = {
        "init_from": model_params.start_from,
        "dual_encoder": model_params.dual_encoder_from,
        "vision": model_params.vision_from,
        "text": model_params.text_from,
    }
    pairs = [("init_from", "vision"), ("init_from", "text"), ("init_from", "dual_encoder"), ("dual_encoder", "vision")]
    for whole, part in pairs:
        if given[whole] is not None and given[part] is not None:
            where = "folder of init_from has its own" if whole == "init_from" else "dual encoder has its own"
            raise ClipBertError(
                f"params.yaml: model.{whole} = {given[whole]} and model.{part} = {given[part]}: the {where} {part}. "
                "Set one of the two to null."
            )
    if task.params.epochs == 0 and given["init_from"] is None and given["dual_encoder"] is None:
        raise ClipBertError(
            f"tasks.{task.name}.epochs is 0, so the initial weights are evaluated, but these are random. Set "
            "model.dual_encoder (a CLIP or SigLIP model) or model.init_from (a trained model), or more epochs."
        )


def _load_parts(task: Task, model: Any, given: dict[str, Part | None]) -> None:
    """Load the weights of pretrained parts into the model, and print their origin.

    Args:
        given: the parts by parameter of section `model`.
    """
    for name, part in given.items():
        if part is not None:
            count = part.give(model)
            console.print(f"{task.name}: {count} weights of model.{name} from {part.source}; {part.remark}")
    for name, part in given.items():
        if part is not None and "vision" in part.fields:
            rows, cols = check_grid(model, part.source, name)
            console.print(f"{task.name}: frames of {model.config.image_size} pixels are {rows} x {cols} cells")


def _warn_unknown(task: Task, examples: list[Example], tokenizer: PreTrainedTokenizerFast, source: str) -> None:
    """Print the share of unknown tokens in the training texts, for a tokenizer that was not learned from them."""
    texts = [text for example in examples for text in example.texts][:MAX_CHECKED]
    share, worst = unknown_share(tokenizer, texts)
    if share > MAX_UNKNOWN:
        tokens = " ".join(tokenizer.tokenize(worst))
        console.print(
            f"{task.name}: {100 * share:.1f} % of the tokens of the training texts are unknown to the tokenizer of "
            f"{source}; {worst!r} becomes {tokens!r}. The model cannot tell these words apart. Use a checkpoint for "
            "your language, or set the parameter to null: the tokenizer is then learned from your texts."
        )


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
        fields, dual = task.objective.config_fields(examples), task.objective.uses_dual_encoder
        config = begin.config(model_params.overrides(), fields, dual)
    except ValueError as error:
        raise ClipBertError(f"params.yaml: model: {error}") from error
    if config.dual_encoder is not None:
        settings |= {"dual_tokenizer": begin.processor.dual_tokenizer}
    settings = {"resize": begin.processor.resize} | settings
    model = task.objective.model_class(config)
    _warn_unknown(task, examples, begin.processor.tokenizer, f"model.init_from ({folder})")
    _warn_unwritable(task, examples, begin.processor.tokenizer, f"model.init_from ({folder})")
    fresh = begin.give(model)
    console.print(f"{task.name} starts from {folder}; fresh: {parts(fresh) or 'nothing'}")
    return model, ClipBertProcessor.for_config(config, begin.processor.tokenizer, **settings)
