"""A model and its processor for a task: fresh, or started from the weights of another ClipBERT."""

from pathlib import Path
from typing import Any

import pandas as pd

from clipbert.console import console
from clipbert.errors import ClipBertError
from clipbert.model import ClipBertConfig, ClipBertProcessor, load
from clipbert.params import Params
from clipbert.tasks.base import Example, Task

# Of a model that is started from, what makes its shape; another value in params.yaml is a contradiction.
SHAPE = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
# What belongs to the task it was trained for, not to the one that starts from it.
HEAD = ("answers", "answer_loss", "retrieval_loss", "ranking_margin", "projection_size")
SHOWN = 6


def build_model(
    task: Task, train: list[Example], params: Params, texts: pd.DataFrame | None = None
) -> tuple[Any, ClipBertProcessor]:
    """A ClipBERT for the task and its processor.

    Fresh: of the preset, its WordPiece vocabulary learned from the training texts. With `model.init_from`: shape,
    vocabulary and all weights that the task shares come from that folder. `texts` is the manifest's table, from which a
    task may take more words than those of its own examples.

    Raises:
        ClipBertError: the parameters do not fit together (hidden size and heads, say) or do not fit the model that is
            started from; or that is not readable.
    """
    source = params.model.start_from
    if source is not None:
        return _continued(task, train, params, Path(source))
    words = sorted(task.vocabulary(train, texts if texts is not None else pd.DataFrame()))
    tokenizer = ClipBertProcessor.train_tokenizer(words, vocab_size=params.model.vocab_size)
    preset = {"tiny": ClipBertConfig.tiny, "base": ClipBertConfig.base}[params.model.preset]
    fields = {"vocab_size": len(tokenizer), "mask_token_id": tokenizer.mask_token_id}
    try:
        config = preset(**fields, **params.model.overrides(), **task.config_fields(train))
    except ValueError as error:
        raise ClipBertError(f"params.yaml: model: {error}") from error
    return task.model_class()(config), ClipBertProcessor.for_config(config, tokenizer)


def _continued(task: Task, train: list[Example], params: Params, source: Path) -> tuple[Any, ClipBertProcessor]:
    start = load(source)
    tokenizer = ClipBertProcessor.from_pretrained(source).tokenizer
    wanted = params.model.overrides()
    for name in SHAPE:
        if name in wanted and wanted[name] != getattr(start.config, name):
            raise ClipBertError(
                f"params.yaml: model.{name} is {wanted[name]}, but model.init_from ({source}) has "
                f"{getattr(start.config, name)}: leave model.{name} null, or start from another model."
            )
    defaults = ClipBertConfig()
    fields = start.config.to_dict() | {name: getattr(defaults, name) for name in HEAD}
    for name in ("architectures", "model_type", "transformers_version", "dtype"):
        fields.pop(name, None)
    fields |= {"mask_token_id": tokenizer.mask_token_id, **wanted, **task.config_fields(train)}
    try:
        config = ClipBertConfig(**fields)
    except ValueError as error:
        raise ClipBertError(f"params.yaml: model, with model.init_from ({source}): {error}") from error
    model = task.model_class()(config)
    # A classifier of the same shape may still mean other answers.
    same_head = type(start) is type(model) and start.config.answers == config.answers
    own = model.state_dict()
    taken = {
        name: value
        for name, value in start.state_dict().items()
        if name in own and own[name].shape == value.shape and (same_head or not name.startswith("classifier."))
    }
    model.load_state_dict(taken, strict=False)
    fresh = sorted(set(own) - set(taken))
    told = f"; fresh: {', '.join(fresh[:SHOWN])}{', ...' if len(fresh) > SHOWN else ''}" if fresh else ""
    console.print(f"{task.name} starts from {source}: {len(taken)} of {len(own)} weights{told}", markup=False)
    return model, ClipBertProcessor.for_config(config, tokenizer)
