"""Loading of a model folder as the class that its config.json names."""

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from transformers import PreTrainedModel
from transformers.utils import logging

from clipbert.errors import ModelFolderError
from clipbert.model.captioning import ClipBertForCaptioning
from clipbert.model.configuration import ClipBertConfig
from clipbert.model.heads import ClipBertForMultipleChoice, ClipBertForOpenQA, ClipBertForRetrieval
from clipbert.model.modeling import ClipBertModel
from clipbert.model.pretraining import ClipBertForPreTraining
from clipbert.model.weights.checksums import check_model

CLASSES: dict[str, type[PreTrainedModel]] = {
    model.__name__: model
    for model in (
        ClipBertModel,
        ClipBertForRetrieval,
        ClipBertForOpenQA,
        ClipBertForMultipleChoice,
        ClipBertForCaptioning,
        ClipBertForPreTraining,
    )
}
REMEDY = "Train or convert the model again, or point at a folder written by save_pretrained."


def load(directory: str | Path, **kwargs: Any) -> PreTrainedModel:
    """Load the model of a folder as the class that its config.json names, in evaluation mode.

    Args:
        directory: written by `save_pretrained`.
        kwargs: passed to `from_pretrained`, for example `dtype`.

    Raises:
        ModelFolderError: a file is missing, unreadable, not of a ClipBERT model, or has changed since it was saved, or
            a weight is missing or mis-shaped.
    """
    folder = Path(directory)
    check_model(folder, weights=False)  # before they are parsed; from_pretrained checks the weights too
    architecture = _architecture(folder)
    if not (folder / "model.safetensors").is_file() and not (folder / "model.safetensors.index.json").is_file():
        raise ModelFolderError(f"{folder / 'model.safetensors'}: not found: the model folder is incomplete. {REMEDY}")
    try:
        with quiet():
            model, info = architecture.from_pretrained(
                folder,
                use_safetensors=True,
                local_files_only=True,
                output_loading_info=True,
                ignore_mismatched_sizes=True,
                **kwargs,
            )
    except ModelFolderError:
        raise
    except (SafetensorError, OSError, ValueError, RuntimeError) as error:
        raise ModelFolderError(f"{folder}: the model cannot be read ({error}). {REMEDY}") from error
    for problem in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if names := sorted(name if isinstance(name, str) else name[0] for name in info[problem]):
            raise ModelFolderError(
                f"{folder / 'model.safetensors'}: {len(names)} weights are {problem.removesuffix('_keys')} for "
                f"{architecture.__name__}: {', '.join(names[:5])}{', ...' if len(names) > 5 else ''}. {REMEDY}"
            )
    return model.eval()


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence the progress bar and the weight table of transformers; our own errors report problems."""
    verbosity, bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bar:
            logging.enable_progress_bar()


def _architecture(folder: Path) -> type[PreTrainedModel]:
    path = folder / "config.json"
    if not path.is_file():
        raise ModelFolderError(f"{path}: not found: no model in this folder. {REMEDY}")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        kind, names = config["model_type"], config["architectures"]
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError) as error:
        raise ModelFolderError(f"{path}: not a model configuration ({error!r}). {REMEDY}") from error
    if kind != ClipBertConfig.model_type or not names or names[0] not in CLASSES:
        raise ModelFolderError(
            f"{path}: model_type is {kind!r} and architectures {names!r}: expected model_type 'clipbert' and one of "
            f"{sorted(CLASSES)}. {REMEDY}"
        )
    return CLASSES[names[0]]
