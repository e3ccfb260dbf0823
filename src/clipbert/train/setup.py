"""A model and its processor for a task, made from the training texts and the parameters."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from clipbert.console import console
from clipbert.errors import ClipBertError
from clipbert.model import ClipBertConfig, ClipBertProcessor
from clipbert.model.initialize import Start, parts
from clipbert.params import Params
from clipbert.tasks.base import Example, Task


def build_model(
    task: Task, train: list[Example], params: Params, others: Iterable[str] = ()
) -> tuple[Any, ClipBertProcessor]:
    """A fresh ClipBERT of the preset, its WordPiece vocabulary learned from the training texts, and its processor;
    or one that starts from the folder `model.init_from`, with its tokenizer.

    `others`: training texts of other tasks whose words the vocabulary is to have as well.

    Raises:
        ClipBertError: the parameters do not fit together (hidden size and heads, say).
    """
    if params.model.start_from is not None:
        return _started(task, train, params, Path(params.model.start_from))
    read = {text for example in train for item in range(len(example.texts)) for text in task.wording(example, item)}
    texts = sorted(read | {text for example in train for text in example.captions} | set(others))
    tokenizer = ClipBertProcessor.train_tokenizer(texts, vocab_size=params.model.vocab_size)
    preset = {"tiny": ClipBertConfig.tiny, "base": ClipBertConfig.base}[params.model.preset]
    try:
        config = preset(vocab_size=len(tokenizer), **params.model.overrides(), **task.config_fields(train))
    except ValueError as error:
        raise ClipBertError(f"params.yaml: model: {error}") from error
    return task.model_class()(config), ClipBertProcessor.for_config(config, tokenizer)


def _started(task: Task, train: list[Example], params: Params, folder: Path) -> tuple[Any, ClipBertProcessor]:
    begin = Start.read(folder)
    try:
        config = begin.config(params.model.overrides(), task.config_fields(train))
    except ValueError as error:
        raise ClipBertError(f"params.yaml: model: {error}") from error
    model = task.model_class()(config)
    fresh = begin.give(model)
    console.print(f"{task.name} starts from {folder}; fresh: {parts(fresh) or 'nothing'}", markup=False)
    return model, ClipBertProcessor.for_config(config, begin.processor.tokenizer)
