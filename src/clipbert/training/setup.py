"""A model and its processor for a task, made from the training texts and the parameters."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerFast

from clipbert.config.schema import Params
from clipbert.config.tasks import CaptioningParams
from clipbert.console import console
from clipbert.errors import ClipBertError
from clipbert.model import ClipBertConfig, ClipBertProcessor
from clipbert.model.tokenizer import unwritable
from clipbert.model.weights.init_from import Start, parts
from clipbert.model.weights.pretrained import Part, TextPart, check_grid, read_text, read_vision, without_text_sizes
from clipbert.tasks.base import Example, Task

MOST_CHECKED = 2000  # captions


def build_model(
    task: Task, train: list[Example], params: Params, others: Iterable[str] = ()
) -> tuple[Any, ClipBertProcessor]:
    """A fresh ClipBERT of the preset, its WordPiece vocabulary learned from the training texts, and its processor;
    with the backbone `model.vision` and the text encoder and tokenizer `model.text` in it where they are named; or one
    that starts from the folder `model.init_from`, with its tokenizer.

    `others`: training texts of other tasks whose words the vocabulary is to have as well.

    Raises:
        ClipBertError: the parameters do not fit together (hidden size and heads, say), or a start cannot be read.
    """
    if params.model.start_from is not None:
        for name, value in (("vision", params.model.vision_from), ("text", params.model.text_from)):
            if value is not None:
                raise ClipBertError(
                    f"params.yaml: model.init_from = {params.model.init_from} and model.{name} = {value}: the folder "
                    f"of init_from has its own {name}. Set one of the two to null."
                )
        return _started(task, train, params, Path(params.model.start_from))
    vision = None if params.model.vision_from is None else read_vision(params.model.vision_from)
    text = None if params.model.text_from is None else read_text(params.model.text_from)
    overrides = params.model.overrides()
    fields: dict[str, Any] = {} if vision is None else vision.fields
    if text is not None:
        tokenizer, overrides = text.tokenizer, without_text_sizes(overrides, text)
        _say_unwritable(task, train, tokenizer, f"model.text ({text.source})")
        fields = fields | text.fields
    else:
        tokenizer = _learned(task, train, params.model.vocab_size, others)
        fields = fields | {"vocab_size": len(tokenizer)}
    preset = {"tiny": ClipBertConfig.tiny, "base": ClipBertConfig.base}[params.model.preset]
    try:
        config = preset(**(fields | overrides | task.config_fields(train)))
    except ValueError as error:
        sources = ", ".join(f"{part.source}" for part in (vision, text) if part is not None)
        raise ClipBertError(f"params.yaml: model: {error}{f' (with what {sources} has)' if sources else ''}") from error
    model = task.model_class()(config)
    _fill(task, model, vision, text)
    return model, ClipBertProcessor.for_config(config, tokenizer, **inference_settings(task, params))


def inference_settings(task: Task, params: Params) -> dict[str, Any]:
    """Return the processor's settings with which evaluation measures the model, and pipelines use it.

    `clips` is that of evaluation, not of training: `config.clips` keeps the latter.
    """
    generation = {"generation": task.params.search()} if isinstance(task.params, CaptioningParams) else {}
    return {"clips": params.evaluate.clips, "frames": params.frames, **generation}


def _learned(task: Task, train: list[Example], vocab_size: int, others: Iterable[str]) -> PreTrainedTokenizerFast:
    """A WordPiece tokenizer of all that the task reads in training, and of `others`."""
    read = {text for example in train for item in range(len(example.texts)) for text in task.wording(example, item)}
    texts = sorted(read | {text for example in train for text in example.captions} | set(others))
    return ClipBertProcessor.train_tokenizer(texts, vocab_size=vocab_size)


def _fill(task: Task, model: Any, vision: Part | None, text: TextPart | None) -> None:
    """Put the parts' weights into the model, and say so."""
    for name, part in (("vision", vision), ("text", text)):
        if part is not None:
            given = part.give(model)
            console.print(
                f"{task.name}: {given} weights of model.{name} from {part.source}; {part.remark}", markup=False
            )
    if vision is not None:
        rows, cols = check_grid(model, vision.source)
        console.print(
            f"{task.name}: frames of {model.config.image_size} pixels are {rows} x {cols} cells", markup=False
        )


def _say_unwritable(task: Task, train: list[Example], tokenizer: PreTrainedTokenizerFast, source: str) -> None:
    """Say how many training captions a tokenizer that was not learned from them can never generate."""
    if not task.writes_text:
        return
    texts = [text for example in train for text in example.texts][:MOST_CHECKED]
    lost = unwritable(tokenizer, texts)
    if lost:
        text, back = lost[0]
        console.print(
            f"{task.name}: the tokenizer of {source} cannot write {len(lost)} of {len(texts)} training captions; "
            f"{text!r} becomes {back!r}. It strips accents or lacks characters, so generated captions cannot have them "
            "and score below the maximum. Use a cased or multilingual checkpoint, or set the parameter to null: the "
            "tokenizer is then learned from your captions.",
            markup=False,
        )


def _started(task: Task, train: list[Example], params: Params, folder: Path) -> tuple[Any, ClipBertProcessor]:
    begin = Start.read(folder)
    try:
        config = begin.config(params.model.overrides(), task.config_fields(train))
    except ValueError as error:
        raise ClipBertError(f"params.yaml: model: {error}") from error
    model = task.model_class()(config)
    _say_unwritable(task, train, begin.processor.tokenizer, f"model.init_from ({folder})")
    fresh = begin.give(model)
    console.print(f"{task.name} starts from {folder}; fresh: {parts(fresh) or 'nothing'}", markup=False)
    return model, ClipBertProcessor.for_config(config, begin.processor.tokenizer, **inference_settings(task, params))
